"""What a command that plays needs: the run that a recipe and its overrides describe, and libraries that keep quiet."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import warnings
from typing import TYPE_CHECKING

from ..errors import RunDirectoryError

if TYPE_CHECKING:
    from ..play.loop import SelfPlay


def session_of(source: str, overrides: list[str]) -> SelfPlay:
    """The run that a recipe and its overrides describe."""
    # Imported here: the stack takes seconds, and `--help` should not.
    from pathlib import Path

    quieten()
    from trl import get_peft_config, get_quantization_config

    from ..play.launching import by_accelerate, read_accelerate_config
    from ..play.loop import SelfPlay
    from ..play.phases import in_this_process
    from ..play.run import LAUNCHED
    from ..recipe import read

    # What has been imported stays. Without this, every collection of garbage would walk through all of it.
    gc.freeze()
    recipe = read(source, overrides)
    if recipe.play.accelerate_config:
        read_accelerate_config(recipe.play.accelerate_config)  # a bad one is said now, not at the first launch
    if recipe.args.disable_tqdm:
        os.environ["TQDM_DISABLE"] = "1"  # TRL's own bars ask for this only
    if (Path(source) / "recipe.yaml").is_file():
        if recipe.play.run_dir and Path(recipe.play.run_dir).resolve() != Path(source).resolve():
            raise RunDirectoryError(
                f"{source} says that it is the run directory {recipe.play.run_dir}. Has it been moved?"
            )
        recipe.play.run_dir, recipe.play.existing_run = source, "continue"
    recipe.play.run_dir = recipe.play.run_dir or str(
        Path("runs") / (recipe.name + ("-smoke" if recipe.play.smoke else ""))
    )
    settings = recipe.settings()
    for warning in recipe.unused():
        logging.getLogger(__name__).warning(warning)
    recipe.load_as_set()
    if LAUNCHED in os.environ and os.environ.get("TQDM_DISABLE"):
        recipe.args.disable_tqdm = True  # whoever has launched this phase shows how far it is
    return SelfPlay(
        model=recipe.model.model_name_or_path,
        args=recipe.args,
        play=recipe.play,
        train_dataset=recipe.data.train(),
        eval_dataset=recipe.data.held_out(),
        peft_config=get_peft_config(recipe.model),
        quantization_config=get_quantization_config(recipe.model),
        start=recipe.start,
        launch=by_accelerate if recipe.play.accelerate_config else in_this_process,
        settings=settings,
        sources=dataclasses.asdict(recipe.data),
    )


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
