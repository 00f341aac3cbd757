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

from .errors import BenchmarkError, RecipeError, RunDirectoryError, SpinError
from .evaluation.benchmarks import SUITES, chosen, harness_version

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
    if overrides and options.command in ("recipes", "report"):
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
    _add_eval(commands)
    report = commands.add_parser("report", help="write report.html of a run, as it stands", allow_abbrev=False)
    report.add_argument("run", help="run directory")
    commands.add_parser("recipes", help="list the recipes that ship with the package")
    return parser


def _add_eval(commands: Any) -> None:
    evaluation = commands.add_parser(
        "eval",
        help="run the papers' benchmarks on a model of a run, with lm-evaluation-harness",
        description="Run benchmarks on a model of a run. What has been run is shown again, not run twice.",
        epilog=f"Suites:\n{_suites()}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    evaluation.add_argument("run", nargs="?", help="run directory")
    evaluation.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        metavar="TASK",
        help="suites, and tasks of the harness; `list` lists the suites",
    )
    which = evaluation.add_mutually_exclusive_group()
    which.add_argument("--iteration", type=int, metavar="T", help="the model that iteration T made, from 0")
    which.add_argument(
        "--stage", default="best", help="best (the default), start, iteration-2, baseline/sft/iteration-2, ..."
    )
    evaluation.add_argument(
        "--num_fewshot", type=_whole, metavar="N", help="examples before a question, instead of the suite's"
    )
    evaluation.add_argument(
        "--limit", type=_limit, metavar="N", help="the first N questions of every task only, or this share of them"
    )
    evaluation.add_argument(
        "--batch_size",
        type=_batch_size,
        metavar="N",
        help="requests at once, or `auto` (`per_device_eval_batch_size`)",
    )
    evaluation.add_argument("--include_path", metavar="FOLDER", help="tasks of your own, as the harness's YAML files")
    evaluation.add_argument("--apply_chat_template", action="store_true", help="ask in the model's chat template")
    evaluation.add_argument("--log_samples", action="store_true", help="keep every question with its answer, too")
    evaluation.add_argument("--again", action="store_true", help="run what has been run before, too")


def _suites() -> str:
    """The suites, each with its benchmarks and their shots."""
    return "\n".join(
        f"  {name}: {', '.join(f'{one.name} ({one.shots})' for one in benchmarks)}"
        for name, benchmarks in SUITES.items()
    )


def _whole(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _limit(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if 0 < number < 1:
        return number
    if number < 1 or number != number // 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of questions nor a share of them")
    return int(number)


def _batch_size(text: str) -> int | str:
    if text != "auto" and not (text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of requests nor `auto`")
    return text if text == "auto" else int(text)


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
        print(f"Report: {result.directory / 'report.html'}")


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


def _eval(options: argparse.Namespace, overrides: list[str]) -> None:
    if options.tasks == ["list"]:
        print(_suites())
        return
    if options.run is None:
        raise RecipeError("Which run? `spin-trl eval RUN --tasks ...`, with the run directory before the tasks.")
    harness_version()  # said now, not after the seconds that the stack takes
    _quieten()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from rich.console import Console

    from .play.benchmarking import Settings, run_benchmarks
    from .play.directory import iteration_stage
    from .play.stages import find_stage
    from .reopen import reopen
    from .report.benchmarks import suite_table, task_table

    run = reopen(options.run, overrides)
    if run.args.disable_tqdm:
        os.environ["TQDM_DISABLE"] = "1"
    stage = find_stage(run, options.stage if options.iteration is None else iteration_stage(options.iteration))
    suites = chosen(options.tasks, options.num_fewshot)
    settings = Settings(
        options.batch_size, options.limit, options.apply_chat_template, options.include_path, options.log_samples
    )
    everything = list(dict.fromkeys(one for benchmarks in suites.values() for one in benchmarks))
    outcome = run_benchmarks(run, stage, everything, settings, again=options.again)
    if int(os.environ.get("RANK", "0")) == 0:
        console = Console()
        for suite, benchmarks in suites.items():
            title = f"{run.directory.path}, {stage}" + (f": {suite}" if suite else "")
            console.print((suite_table if suite else task_table)(title, benchmarks, outcome.results))
        if options.limit is not None:
            console.print(f"A look at {options.limit} of every task, not the benchmarks.", style="yellow")
        print(f"Results: {run.directory.benchmarks(stage)}")
    if outcome.failures:
        raise BenchmarkError(
            "\n".join(
                [f"{len(outcome.failures)} of {len(everything)} benchmarks could not be run. The others are kept."]
                + outcome.failures
            )
        )


def _report(options: argparse.Namespace, overrides: list[str]) -> None:
    from .play.directory import RunDirectory
    from .play.reporting import write_report

    try:
        print(write_report(RunDirectory(options.run)))
    except PermissionError as error:
        raise RunDirectoryError(f"The report of {options.run} can't be written: {error}") from error


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
    from .play.run import LAUNCHED
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
    settings = recipe.settings()
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
    "eval": _eval,
    "recipes": _recipes,
    "report": _report,
    **dict.fromkeys(("generate", "train", "evaluate", "start", "baseline"), _phase),
}
