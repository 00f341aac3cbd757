"""What a command that plays needs: the run that a recipe and its overrides describe, and libraries that keep quiet."""

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


def session_of(source: str, overrides: list[str], *, trust_run: bool = False) -> SelfPlay:
    """The run that a recipe and its overrides describe; `trust_run` lets it run the code that a run directory names."""
    # Imported here: the stack takes seconds, and `--help` should not.
    quieten()
    from trl import get_quantization_config

    from ..config.shipped import read_accelerate_config
    from ..data.bad_rows import SKIP
    from ..models.adapters import is_adapter, peft_config_of
    from ..play.loop import SelfPlay
    from ..play.phases import by_accelerate, in_this_process
    from ..run.recipe import read_recipe
    from ..run.run import LAUNCHED
    from ..run.trust import check_trust_of_recipe

    # What has been imported stays. Without this, every collection of garbage would walk through all of it.
    gc.freeze()
    recipe = read_recipe(source, overrides)
    check_trust_of_recipe(recipe, overrides, is_trusted=trust_run)
    if recipe.play.accelerate_config:
        read_accelerate_config(recipe.play.accelerate_config)  # a bad one is said now, not at the first launch
    if recipe.args.disable_tqdm:
        os.environ["TQDM_DISABLE"] = "1"  # TRL's own bars ask for this only
    recipe.play.run_dir = run_dir_of(recipe, source, overrides)
    note_run_directory(recipe.play.run_dir)
    settings = recipe.settings()
    name = recipe.model.model_name_or_path
    unusual = [] if LAUNCHED in os.environ else recipe.unusual()  # a launched phase would only say it again
    for warning in unusual + recipe.unused(starts_from_adapter=name is not None and is_adapter(name)):
        logging.getLogger(__name__).warning(warning)
    recipe.load_as_set()
    if LAUNCHED in os.environ and os.environ.get("TQDM_DISABLE"):
        recipe.args.disable_tqdm = True  # whoever has launched this phase shows how far it is
    return SelfPlay(
        model=recipe.model.model_name_or_path,
        args=recipe.args,
        play=recipe.play,
        train_dataset=recipe.data.train(bad_as_rows=recipe.args.bad_rows == SKIP),
        eval_dataset=recipe.data.held_out(bad_as_rows=recipe.args.bad_rows == SKIP),
        peft_config=peft_config_of(recipe.model),
        quantization_config=get_quantization_config(recipe.model),
        start=recipe.start,
        launch=by_accelerate if recipe.play.accelerate_config else in_this_process,
        settings=settings,
        sources=dataclasses.asdict(recipe.data),
        recipe=recipe.file,
        trust_run=trust_run,
    )


def run_dir_of(recipe: Recipe, source: str, overrides: list[str]) -> str:
    """Where the run of a recipe is, or will be.

    A run directory that is given instead of a recipe; `run_dir`; `output_dir`, unless `runs/NAME` has this recipe's run
    already; `runs/NAME`.

    Raises:
        RunDirectoryError: a run directory is given, and another one is set, or that it is not to go on.
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
                    f"{source} is a run directory, and goes on there; `{name}` is {getattr(play, name)}. For a new run with "
                    f"its settings, name the recipe: {own.recipe}."
                )
        play.existing_run = "continue"
        return str(own.path)
    if play.run_dir:
        return play.run_dir
    suffix = "-smoke" if play.smoke else ""
    usual = Path("runs") / (recipe.name + suffix)
    if recipe.file == Path("recipe.yaml") and RunDirectory("runs").ownership.is_earlier_run():
        usual = Path("runs")  # version 0.1.0 had no other name for it
    if recipe.output_dir is None:
        return str(usual)
    there = RunDirectory(usual)
    is_run = there.ownership.holds_run() and there.recipe.is_file()
    if is_run and not differences(frozen_settings(there), recipe.settings(), there.ownership.paths_from()):
        if rank() == "0":
            said = f"This recipe's run in {usual} goes on there; `output_dir` ({recipe.output_dir}) is for a new run."
            print(printable(said))
        return str(usual)
    return str(home_expanded(recipe.output_dir + suffix))


def quieten() -> None:
    """What libraries say at every load and every save would bury what the run says."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # at its import: kernels that nobody asked for
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
