"""`spin-trl eval`: run the papers' benchmarks, or any lm-evaluation-harness tasks, on a model of a run."""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any

from ..counts import counted
from ..errors import BenchmarkError, RecipeError
from ..evaluation.benchmarks import SUITES, chosen, harness_version
from ..report.terminal import shown_path
from .commands import add_command, add_trust
from .failures import rank
from .session import quieten


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "eval",
        run_suites,
        help="run the papers' benchmarks on a model of a run, with lm-evaluation-harness",
        description="Run benchmarks on a model of a run. Stored results are shown again instead of being recomputed.",
        epilog=f"Suites:\n{_suites()}\n",
    )
    parser.add_argument("run", nargs="?", help="run directory")
    parser.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        metavar="TASK",
        help="suites or lm-evaluation-harness tasks; `list` lists the suites",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--iteration", type=int, metavar="T", help="the model trained in iteration T, counted from 0")
    which.add_argument(
        "--stage",
        default="best",
        help="the stage whose model is evaluated: best (default), last, start, iteration-2, baseline/sft/iteration-2, "
        "dpo/start, ...",
    )
    parser.add_argument(
        "--num_fewshot",
        type=_whole_number,
        metavar="N",
        help="few-shot examples per question, instead of the suite's number",
    )
    parser.add_argument(
        "--limit",
        type=_limit,
        metavar="N",
        help="use only the first N questions of each task; below 1, this fraction of them",
    )
    parser.add_argument(
        "--batch_size",
        type=_batch_size,
        metavar="N",
        help="requests per batch, or `auto` (default: `per_device_eval_batch_size`)",
    )
    parser.add_argument("--include_path", metavar="FOLDER", help="folder with your own tasks, as harness YAML files")
    parser.add_argument(
        "--apply_chat_template", action="store_true", help="format the questions with the model's chat template"
    )
    parser.add_argument("--log_samples", action="store_true", help="also store every question with its answer")
    add_trust(parser)
    parser.add_argument("--again", action="store_true", help="rerun benchmarks that already have results")


def _suites() -> str:
    """List the suites, each with its benchmarks and their numbers of shots."""
    return "\n".join(
        f"  {name}: {', '.join(f'{one.name} ({one.shots})' for one in benchmarks)}"
        for name, benchmarks in SUITES.items()
    )


def _whole_number(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _limit(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if 0 < number < 1:
        return number
    if number < 1 or number != number // 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of questions nor a fraction of them")
    return int(number)


def _batch_size(text: str) -> int | str:
    if text != "auto" and not (text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive number of requests nor `auto`")
    return text if text == "auto" else int(text)


def run_suites(options: argparse.Namespace, overrides: list[str]) -> None:
    """Run benchmarks, and show their results along with stored ones."""
    if options.tasks == ["list"]:
        print(_suites())
        return
    if options.run is None:
        raise RecipeError("Which run? `spin-trl eval RUN --tasks ...`, with the run directory before the tasks.")
    harness_version()  # fail now if it is missing, not after seconds of imports
    quieten()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from ..play.benchmark import Settings, run_benchmarks
    from ..play.open import reopen
    from ..report import terminal
    from ..report.benchmarks import benchmark_table
    from ..run.run import find_stage
    from ..run.stage import Stage

    run = reopen(options.run, overrides, trust_run=options.trust_run)
    if run.args.disable_tqdm:
        os.environ["TQDM_DISABLE"] = "1"
    stage = find_stage(run, options.stage if options.iteration is None else Stage.of(options.iteration))
    suites = chosen(options.tasks, options.num_fewshot)
    settings = Settings(
        options.batch_size, options.limit, options.apply_chat_template, options.include_path, options.log_samples
    )
    everything = list(dict.fromkeys(one for benchmarks in suites.values() for one in benchmarks))
    outcome = run_benchmarks(run, stage, everything, settings, again=options.again)
    if rank() == "0":
        console = terminal.console()
        for suite, benchmarks in suites.items():
            title = f"{run.directory.path}, {stage}" + (f": {suite}" if suite else "")
            console.print(benchmark_table(title, benchmarks, outcome.results, is_suite=bool(suite)))
        if options.limit is not None:
            console.print(
                f"Measured on `--limit {options.limit}` of every task: not comparable with full benchmarks.",
                style="yellow",
            )
        print(f"Results: {shown_path(run.directory.benchmarks(stage))}")
    if outcome.failures:
        of = f"of {counted(len(everything), 'benchmark')}"
        summary = f"{len(outcome.failures)} {of} failed. The results of the others are stored."
        raise BenchmarkError("\n".join([summary, *outcome.failures]))
