"""Creates the run that a recipe and its overrides describe, and silences the libraries' output."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RunDirectoryError
from ..files import home_expanded
from ..report.terminal import printable
from .failures import note_run_directory, rank

if TYPE_CHECKING:
    from ..config.recipe import Recipe
    from ..play.loop import SelfPlay

SMOKE = "-smoke"
"""End of the name of a smoke run's directory, unless `run_dir` names it."""


def session_of(source: str, overrides: list[str], *, trust_run: bool = False) -> SelfPlay:
    """Return the run that a recipe and its overrides describe; `trust_run` allows code named by a run directory to run."""
    # Imported here: these imports take seconds, and `--help` should not.
    quieten()
    from trl import get_quantization_config

    from ..config.arguments import is_overridden
    from ..config.shipped import read_accelerate_config
    from ..config.yaml_files import read_yaml
    from ..data.bad_rows import SKIP
    from ..models.adapters import is_adapter, peft_config_of
    from ..play.loop import SelfPlay
    from ..play.phases import by_accelerate, in_this_process
    from ..run.recipe import read_recipe
    from ..run.run import LAUNCHED
    from ..run.trust import check_trust_of_recipe

    # Imported objects are never freed. Without this, every garbage collection would traverse all of them.
    gc.freeze()
    recipe = read_recipe(source, overrides)
    check_trust_of_recipe(recipe, overrides, is_trusted=trust_run)
    if recipe.play.accelerate_config:
        read_accelerate_config(recipe.play.accelerate_config)  # fail now if it is invalid, not at the first launch
    if recipe.args.disable_tqdm:
        os.environ["TQDM_DISABLE"] = "1"  # TRL's own progress bars obey only this variable
    recipe.play.run_dir = run_dir_of(recipe, source, overrides)
    note_run_directory(recipe.play.run_dir)
    settings = recipe.settings()
    if is_overridden("engine", overrides) or (recipe.file is not None and "engine" in read_yaml(recipe.file)):
        settings["engine"] = (
            recipe.args.engine
        )  # also the default, if it is named: a run that goes on may change to it
    name = recipe.model.model_name_or_path
    unusual = (
        [] if LAUNCHED in os.environ else recipe.unusual()
    )  # the process that launched this phase has already warned
    for warning in unusual + recipe.unused(starts_from_adapter=name is not None and is_adapter(name)):
        logging.getLogger(__name__).warning(warning)
    recipe.load_as_set()
    if LAUNCHED in os.environ and os.environ.get("TQDM_DISABLE"):
        recipe.args.disable_tqdm = True  # the process that launched this phase shows its progress
    return SelfPlay(
        model=recipe.model.model_name_or_path,
        args=recipe.args,
        play=recipe.play,
        train_dataset=recipe.data.train(bad_as_rows=recipe.args.bad_rows == SKIP),
        eval_dataset=recipe.data.held_out(bad_as_rows=recipe.args.bad_rows == SKIP),
        test_dataset=recipe.data.test(bad_as_rows=recipe.args.bad_rows == SKIP),
        retain_dataset=recipe.data.retain(bad_as_rows=recipe.args.bad_rows == SKIP),
        dpo_dataset=recipe.data.pairs(),
        peft_config=peft_config_of(recipe.model),
        sft_peft_config=peft_config_of(recipe.model, use_peft=recipe.play.sft_use_peft),
        quantization_config=get_quantization_config(recipe.model),
        start=recipe.start,
        launch=by_accelerate if recipe.play.accelerate_config else in_this_process,
        settings=settings,
        sources=dataclasses.asdict(recipe.data),
        recipe=recipe.file,
        trust_run=trust_run,
    )


def run_dir_of(recipe: Recipe, source: str, overrides: list[str]) -> str:
    """Return the run directory of a recipe, whether or not it exists yet.

    In this order: the run directory given instead of a recipe; `run_dir`; `output_dir`, unless `runs/NAME` already holds
    this recipe's run; `runs/NAME`.

    Raises:
        RunDirectoryError: if a run directory is given, but the overrides name another one or say not to continue it.
    """
    from ..config.arguments import is_overridden
    from ..run.directory import RunDirectory
    from ..run.settings import differences, frozen_settings

    play = recipe.play
    own = RunDirectory(source)
    if own.ownership.holds_run() and os.path.isfile(own.recipe):
        elsewhere = RunDirectory(play.run_dir or "").path.resolve() != own.path.resolve()
        for name, is_other in (("run_dir", elsewhere), ("existing_run", play.existing_run != "continue")):
            if is_other and is_overridden(name, overrides):
                raise RunDirectoryError(
                    f"{source} is a run directory, so its run is resumed there, but `{name}` is {getattr(play, name)}. To "
                    f"start a new run with its settings, pass the recipe: {own.recipe}."
                )
        play.existing_run = "continue"
        return str(own.path)
    if play.run_dir:
        return play.run_dir
    suffix = SMOKE if play.smoke else ""
    usual = Path("runs") / (recipe.name + suffix)
    if recipe.file == Path("recipe.yaml") and RunDirectory("runs").ownership.is_earlier_run():
        usual = Path("runs")  # where version 0.1.0 put it
    if recipe.output_dir is None:
        return str(usual)
    there = RunDirectory(usual)
    is_run = there.ownership.holds_run() and there.recipe.is_file()
    if is_run and not differences(frozen_settings(there), recipe.settings(), there.ownership.paths_from()):
        if rank() == "0":
            note = (
                f"Resuming this recipe's run in {usual}; `output_dir` ({recipe.output_dir}) applies only to a new run."
            )
            print(printable(note))
        return str(usual)
    return str(home_expanded(recipe.output_dir + suffix))


def quieten() -> None:
    """Silence what libraries log at every load and save, which would bury the run's own output."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on import it warns about kernels that are not needed
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
