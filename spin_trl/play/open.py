"""Opens an existing run from its directory alone: its settings and models, but not its data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from accelerate import PartialState
from transformers import BitsAndBytesConfig
from trl import get_quantization_config

from ..config.recipe import Recipe
from ..errors import RecipeError, RunDirectoryError, refuse_unplayable
from ..models.policy import load_tokenizer
from ..run.adapter_bases import follow
from ..run.directory import RunDirectory
from ..run.journal import Step
from ..run.recipe import read_recipe
from ..run.run import Run
from ..run.stage import Stage
from ..run.trust import CODE_OF_MODELS, check_trust, named_code

OF_THE_MACHINE = frozenset({"bf16", "ddp_timeout", "disable_tqdm", "fp16", "use_cpu"})
"""Settings for where and how a model computes, which may have to differ from the run's on another machine."""


def reopen(source: str, overrides: Sequence[str] = (), *, trust_run: bool = False) -> Run:
    """Open a run without its data, even one that was started from Python.

    Args:
        source: the run directory.
        overrides: command-line settings; only those in `OF_THE_MACHINE`.
        trust_run: whether to run the code of models named by the settings even if the directory was copied from elsewhere.

    Raises:
        RunDirectoryError: if there is no run, or it names code that is not trusted on this machine.
        RecipeError: if another setting is overridden, or the settings can't be read.
    """
    directory = RunDirectory(source)
    directory.check_run()
    if not os.path.isfile(directory.recipe):
        raise RunDirectoryError(f"There is no run in {source}: a run directory contains recipe.yaml.")
    for name in (argument.partition("=")[0] for argument in overrides if argument.startswith("--")):
        if name.removeprefix("--") not in OF_THE_MACHINE:
            raise RecipeError(
                f"`{name}` can't be given here. The run's own settings apply, except for "
                f"{', '.join(sorted(OF_THE_MACHINE))}."
            )
    recipe = read_recipe(str(directory.recipe), overrides, accept_python=True)
    code = named_code(recipe.settings())
    needed = {name: what for name, what in code.items() if name in CODE_OF_MODELS}
    check_trust(directory.ownership, needed, is_trusted=trust_run)
    recipe.play.scorer = recipe.play.retain_scorer = recipe.play.retain_tasks = (
        None  # their code may not be available here
    )
    recipe.load_as_set()
    objects = recipe.python
    run = Run(
        directory=directory,
        args=recipe.args,
        play=recipe.play,
        model=recipe.model.model_name_or_path if objects is None else objects["model"],
        start=recipe.start,
        quantization_config=_quantization(recipe, objects),
    )
    refuse_unplayable(run.refused)
    if PartialState().is_main_process:
        follow(directory)
    if objects is not None:
        _restore(run)
    return run


def _quantization(recipe: Recipe, objects: dict[str, Any] | None) -> BitsAndBytesConfig | None:
    if objects is None:
        return get_quantization_config(recipe.model)
    kept = objects["quantization_config"]
    return None if kept is None else BitsAndBytesConfig.from_dict(kept)


def _restore(run: Run) -> None:
    """Restore arguments that were passed as objects and not as names, from the files that the run has saved."""
    if run.done(Step.GIVEN, run.given_stage) is not None:
        run.model = str(run.directory.model(run.given_stage))
    dtype = run.args.model_kwargs.get("dtype")
    if isinstance(dtype, str):
        run.args.model_init_kwargs = {**run.args.model_kwargs, "dtype": dtype.removeprefix("torch.")}
    # A tokenizer that was passed as an object has no recorded name, but is saved with every model of the run.
    models = (run.directory.model(Stage.of(number)) for number in run.directory.iterations())
    saved = [model for model in models if (model / "tokenizer_config.json").is_file()]
    if saved:
        run.processing_class = load_tokenizer(saved[0], run.args)
