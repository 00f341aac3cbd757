"""The `spin-trl` command: a whole run, or one of its phases. No traceback for a user's mistake.

Exit codes: 0 done, 2 bad input, 1 a failure, 130 an interrupt.
"""

from __future__ import annotations

import argparse
import errno
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .errors import RecipeError, RunDirectoryError, SpinError

if TYPE_CHECKING:
    from .play.loop import SelfPlay

INTERRUPTED = 130

_EPILOG = """\
A recipe is a YAML file, a folder with spin.yaml, a run directory, or the name of a recipe that ships with the package.
Every setting of a recipe can be overridden: spin-trl run quickstart --num_iterations 2 --learning_rate '[1e-3,5e-4]'.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None for those of this process.

    Returns:
        The exit code.
    """
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    if overrides and options.command == "recipes":
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    # A scheduler's SIGTERM ends a run the way Ctrl-C does: what is finished is kept.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _COMMANDS[options.command](options, overrides)
        return 0
    except SpinError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("Interrupted. What was finished is kept; the same command goes on from there.", INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _fail(
            f"The disk is full ({error}). What was finished is kept: make room, or set `keep_iterations`, and run the same "
            "command again.",
            1,
        )
    finally:
        signal.signal(signal.SIGTERM, previous)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spin-trl",
        description="Self-play fine-tuning for TRL.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run", help="play all iterations, or go on with a run", epilog=_EPILOG, allow_abbrev=False
    )
    run.add_argument("recipe")
    for name, what in (
        ("generate", "let the opponent of an iteration answer the prompts"),
        ("train", "train an iteration on its generations"),
        ("evaluate", "measure an iteration's model on the held-out prompts"),
        ("start", "make the start, if no checkpoint is given, and measure it"),
        ("baseline", "train and measure the supervised baseline of an iteration"),
    ):
        phase = commands.add_parser(name, help=what, epilog=_EPILOG, allow_abbrev=False)
        phase.add_argument("recipe", help="recipe, or run directory")
        phase.add_argument("--iteration", type=int, default=0, help="which iteration, from 0")
    compare = commands.add_parser(
        "compare", help="play several objectives side by side", epilog=_EPILOG, allow_abbrev=False
    )
    compare.add_argument("recipe")
    compare.add_argument(
        "--arms",
        nargs="+",
        required=True,
        metavar="ARM",
        help="losses (sigmoid space tspin spif iris ...), sums of them (space+0.1*sft), and sft, the supervised arm",
    )
    compare.add_argument("--seeds", type=int, default=1, help="how many seeds (1)")
    compare.add_argument("--devices", type=int, default=1, help="arms at the same time, on GPUs each on its own (1)")
    compare.add_argument(
        "--arm_settings", help='further settings by arm, as JSON: {"sigmoid": {"learning_rate": 1e-6}}'
    )
    commands.add_parser("recipes", help="list the recipes that ship with the package")
    return parser


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> int:
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(f"spin-trl: {message}", file=sys.stderr)
    return code


def _run(options: argparse.Namespace, overrides: list[str]) -> None:
    result = _session(options.recipe, overrides).run()
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"Best: {result.best_stage}, in {result.best_model}")
        print(f"Table, plot and figures: {result.directory}")


def _phase(options: argparse.Namespace, overrides: list[str]) -> None:
    session = _session(options.recipe, overrides)
    if not 0 <= options.iteration < session.state.play.num_iterations:
        raise RecipeError(
            f"`--iteration` is {options.iteration}, but the run has the iterations 0 to "
            f"{session.state.play.num_iterations - 1}."
        )
    session.run_phase(options.command, options.iteration)


def _compare(options: argparse.Namespace, overrides: list[str]) -> None:
    _quieten()
    from .checks import as_mapping
    from .compare import Comparison

    arm_settings = as_mapping("--arm_settings", options.arm_settings)
    Comparison(options.recipe, overrides, options.arms, options.seeds, options.devices, arm_settings).run()


def _recipes(options: argparse.Namespace, overrides: list[str]) -> None:
    from .recipe import shipped_recipes

    for name, path in sorted(shipped_recipes().items()):
        print(f"{name:20} {path}")


def _session(source: str, overrides: list[str]) -> SelfPlay:
    """The run that a recipe and its overrides describe."""
    # Imported here: the stack takes seconds, and `--help` should not.
    from pathlib import Path

    _quieten()
    from trl import get_peft_config, get_quantization_config

    from .play.loop import SelfPlay
    from .play.phases import by_accelerate, in_this_process, read_accelerate_config
    from .recipe import read

    # What has been imported stays. Without this, every collection of garbage would walk through all of it.
    gc.freeze()
    recipe = read(source, overrides)
    if recipe.play.accelerate_config:
        read_accelerate_config(Path(recipe.play.accelerate_config))  # a bad one is said now, not at the first launch
    if recipe.args.disable_tqdm:
        os.environ["TQDM_DISABLE"] = "1"  # TRL's own bars ask for this only
    if (Path(source) / "recipe.yaml").is_file():
        if recipe.play.run_dir and Path(recipe.play.run_dir).resolve() != Path(source).resolve():
            raise RunDirectoryError(
                f"{source} says that it is the run directory {recipe.play.run_dir}. Has it been moved?"
            )
        recipe.play.run_dir, recipe.play.existing_run = source, "continue"
    recipe.play.run_dir = recipe.play.run_dir or str(Path("runs") / recipe.name)
    model_kwargs = {
        "revision": recipe.model.model_revision,
        "attn_implementation": recipe.model.attn_implementation,
        "dtype": recipe.model.dtype,
    }
    settings = recipe.settings()
    if recipe.model.model_name_or_path is not None:
        recipe.args.model_init_kwargs = {
            **{name: value for name, value in model_kwargs.items() if value is not None},
            **dict(recipe.args.model_init_kwargs or {}),
        }
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
    )


def _quieten() -> None:
    """What libraries say at every load and every save would bury what the run says."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # at its import: kernels that nobody asked for
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


_COMMANDS: dict[str, Callable[[argparse.Namespace, list[str]], None]] = {
    "run": _run,
    "compare": _compare,
    "recipes": _recipes,
    **dict.fromkeys(("generate", "train", "evaluate", "start", "baseline"), _phase),
}
