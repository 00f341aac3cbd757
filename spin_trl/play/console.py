"""The console output of a run: a line for each phase, and a table, plot and report after each iteration."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
from accelerate import PartialState
from rich.console import Console
from rich.progress import Task
from rich.table import Table
from transformers.utils import logging as transformers_logging

from ..config.dpo_on_top import dpo_steps
from ..config.loop import asks_judge
from ..config.sft_first import sft_steps
from ..config.steps import gradient_steps
from ..counts import counted, listed
from ..errors import DataError
from ..files import write_text
from ..plan.judged import Judging, judged, names_of_scorer
from ..report import terminal
from ..report.charts import plot_run
from ..report.record import RunRecord, read_record, read_shown_figures
from ..report.status import PhaseLog, PhaseProgress
from ..report.terminal_table import CAPTION, FROM_START, TEST_CAPTION, run_table
from ..report.verdict import faults_in_words
from ..report.write import write_report
from ..run.journal import MADE, MEASURED_SETS, RETENTION, TEST, Entry, Step, end_of_arm, ends_of_arms
from ..run.objects import best_stage
from ..run.progress import seconds_left_of_phase, seconds_left_of_run
from ..run.reviews import review_figures, reviews_in
from ..run.run import Run, device_name
from ..run.stage import BASE, BEST_SFT, DPO, START, Stage, up_to
from .judged import judge_in_words

logger = logging.getLogger(__name__)

Figures = dict[Stage, dict[str, float]]
"""Held-out figures by stage, with the prefix `retention/` those on the retention set, and with `review/` those of votes."""

BESIDE_ROWS = 12
"""Lines of the live view other than iteration rows: status, title, heading, the start, rules and the caption."""

FILE_WIDTH = 160
"""Width in columns of the table that is written to a file."""


def all_figures(run: Run, iteration: int) -> Figures:
    """Return the figures of all stages up to an iteration, then those of baseline arms and of DPO's results."""
    base = [BASE] if run.sft_first else []
    entries = run.journal.entries()
    of_arms = [
        stage
        for arm in run.arms
        for stage in (Stage.of(t, arm) for t in range(iteration + 1))
        # Some arms do not have all stages: one has a stage at the end only, and others have ended.
        if run.directory.metrics(stage).exists() or not (arm == BEST_SFT or end_of_arm(entries, stage))
    ]
    of_dpo = [stage for stage in run.directory.stages() if stage.arm == DPO]
    votes = reviews_in(entries)
    return {
        stage: read_shown_figures(run.directory, stage) | review_figures(votes, stage)
        for stage in (*base, *up_to(iteration), *of_arms, *of_dpo)
    }


def phase_line(entry: dict[str, Any], journal: Sequence[Entry] = ()) -> str:
    """Summarise what a phase did in one line, from its journal entry.

    Args:
        entry: the phase's journal entry.
        journal: all journal entries, including this one.
    """
    seconds, where = entry.get("seconds", 0.0), f"{entry['stage']}: {entry['phase']}"
    if entry["phase"] == Step.GENERATE:
        rate = entry["tokens"] / entry["work_seconds"] if entry["work_seconds"] else 0.0
        line = f"{where}: {counted(entry['tokens'], 'token')} in {seconds:.0f} s ({rate:,.0f} per second)"
        if entry.get("identical"):
            share = 100 * entry["identical"] / entry["responses"]
            line += f"; {share:.1f} % of the generations equal the real response"
        return line
    if entry["phase"] == Step.TRAIN and ("pairs" in entry or "preferences" in entry):
        first, last, pairs = entry["first"], entry["last"], entry.get("pairs", {})
        used = entry["preferences"] if "preferences" in entry else pairs["total"] - pairs["dropped"]
        line = f"{where}: {counted(entry['steps'], 'step')} on {counted(used, 'pair')} in {seconds:.0f} s"
        faults = faults_in_words(journal, entry["stage"])
        line += "".join(f"; {fault}" for fault in faults)
        if not last:  # fewer steps than `logging_steps`
            return line
        # JSON has no NaN, so the journal stores null.
        before, after, margin = (
            math.nan if value is None else value
            for value in (first.get("loss"), last.get("loss"), last.get("rewards/margins"))
        )
        return f"{line}; loss {before:.4f} -> {after:.4f}, margin {margin:.3f}"
    if entry["phase"] == Step.TRAIN and "rows" in entry:
        line = f"{where}: SFT, {counted(entry['steps'], 'step')} on {counted(entry['rows'], 'row')} in {seconds:.0f} s"
        found = {step: nll for step, _, nll in entry.get("points", ())}
        best = entry.get("best_step")
        return f"{line}; best at step {best}, NLL {found[best]:.4f} per token" if best in found else line
    if entry["phase"] == Step.EVALUATE:
        nll = f"NLL {entry['nll']:.4f} per token" if "nll" in entry else "the logits are NaN: training diverged,"
        return f"{where}: {nll} on {counted(entry['held_out'], 'held-out prompt')}, {seconds:.0f} s"
    if entry["phase"] == Step.RETENTION and not entry["prompts"]:  # tasks of lm-evaluation-harness alone
        return f"{where}: done in {seconds:.0f} s"
    if entry["phase"] in MEASURED_SETS:
        nll = f"NLL {entry['nll']:.4f} per token" if "nll" in entry else "the logits are NaN,"
        return f"{where}: {nll} on {counted(int(entry['prompts']), 'prompt')}, {seconds:.0f} s"
    return f"{where}: done in {seconds:.0f} s"


def intention(run: Run, phases: Sequence[str], processes: int, *, is_text: bool) -> list[str]:
    """Describe what a run will do, before its first phase: where it runs, its rows and steps, what judges its models, what
    nothing judges, and what has finished.

    Prompts that are plain text are pointed out: a chat model, or what reads its output, may expect the chat template.

    Args:
        run: the run, with its rows prepared.
        phases: the phases of every iteration, in order.
        processes: number of processes that train together.
        is_text: whether the prompts of the user's data are plain text.
    """
    where = "one process" if processes == 1 else f"{processes} processes"
    first = f"Run {run.directory.path} on {where} ({device_name(PartialState().device)}): "
    first += f"{counted(run.play.num_iterations, 'iteration')} of {', '.join(phases)}."
    rows = len(run.self_play_rows())
    steps = [
        gradient_steps(args, rows * args.num_generations * (1 + min(run.play.history, iteration)), processes)
        for iteration in range(run.play.num_iterations)
        for args in [run.iteration_args(iteration)]
    ]
    second = f"{counted(rows, 'row')} to train on, {counted(len(run.rows(held_out=True)), 'row')} held out"
    tested, retained = (len(run.measured_rows(name)) for name in (TEST, RETENTION))
    second += f", {counted(tested, 'row')} to test the final models on" if tested else ""
    second += f", {counted(retained, 'row')} to measure retention on" if retained else ""
    second += "; "
    second += f"about {counted(sum(steps), 'gradient step')} in all ({', '.join(f'{one:,}' for one in steps[:6])}"
    second += ", ...)." if len(steps) > 6 else ")."
    if run.sft_first:
        seen = len(run.sft_rows())
        first += f" SFT first: about {counted(sft_steps(run.args, run.play, seen, processes), 'gradient step')} "
        first += f"on {counted(seen, 'row')}."
    if run.play.then_dpo:
        pairs = len(run.pairs())
        of_each = counted(dpo_steps(run.args, run.play, pairs, processes), "gradient step")
        first += f" Then DPO on {', '.join(run.play.then_dpo)}: about {of_each} on {counted(pairs, 'pair')} each."
    done = [entry for entry in run.journal.entries() if entry["phase"] in MADE]
    last = [f"Already finished: everything up to {done[-1]['stage']}: {done[-1]['phase']}."] if done else []
    judging = Judging(
        run.play,
        len(run.rows(held_out=True)),
        is_tested=tested > 0,
        is_retained=retained > 0 or bool(run.play.retain_tasks),
        scorers=names_of_scorer(run.scorer, run.play.scorer),
    )
    told = judged(judging)
    told += [judge_in_words(run)] if asks_judge(run.play) else []
    return [first, second, *told, *([_of_text(run)] if is_text else []), *last]


def _of_text(run: Run) -> str:
    """Describe how plain text is continued, and how to apply the chat template if the start has one."""
    said = "Prompts are plain text, which is continued without a chat template"
    if run.model is None:  # the run trains its own tokenizer
        return f"{said}."
    with contextlib.suppress(DataError):  # a finished run may have outlived its model
        if run.tokenizer().chat_template is not None:
            how = "`as_conversations: true` applies" if run.sources else "messages instead of text have"
            return f"{said} ({how} the model's chat template)."
    return f"{said}."


def show(run: Run, iteration: int, best: str, console: Console | None) -> None:
    """Write table, plot and report to the run directory, and print the table if a console is given.

    A run continues even if its plot or report can't be written.
    """
    figures = all_figures(run, iteration)
    if console is not None:
        console.print(_table_of_run(run, iteration, figures, best, console.width))
    file = io.StringIO()
    terminal.console(file, FILE_WIDTH).print(_table_of_run(run, iteration, figures, best, FILE_WIDTH))
    try:
        record = read_record(run.directory)
        if (tested := table_of_tests(record, FILE_WIDTH)) is not None:
            terminal.console(file, FILE_WIDTH).print(tested)
        plot_run(run.directory.own("plot.png"), record)
        write_report(run.directory, record)
    except Exception as error:
        logger.warning("plot.png or report.html was not written: %s: %s", type(error).__name__, error)
    write_text(run.directory.own("table.txt"), file.getvalue())


def table_of_tests(record: RunRecord, width: int) -> Table | None:
    """Return the table of the final models' figures on the test set; None if there are none.

    Args:
        record: record of the run.
        width: width of the terminal in columns.
    """
    figures = {stage.name: stage.test.figures for stage in record.tested}
    if not figures:
        return None
    title = f"{record.name}, {counted(record.num_tested, 'test prompt')}"
    change = (FROM_START, "; from the start: paired difference")
    return run_table(
        figures, record.best, title=title, width=width, metric=record.test_metric, caption=TEST_CAPTION, change=change
    )


def table_so_far(run: Run, iteration: int, width: int, height: int) -> Table | None:
    """Return the table of figures up to an iteration, leaving out stages without any; None if there are none at all.

    Args:
        run: the run.
        iteration: number of the iteration (0-based).
        width, height: size of the terminal. If the table would not fit its height, older iterations are left out.
    """
    figures = {stage: found for stage, found in all_figures(run, iteration).items() if found}
    fit = max((height - BESIDE_ROWS - len(run.arms)) // (1 + len(run.arms)), 1)
    shown = {
        stage: found for stage, found in figures.items() if stage.iteration < 0 or stage.iteration > iteration - fit
    }
    return _table_of_run(run, iteration, shown, best_stage(run.directory), width) if shown else None


def _table_of_run(run: Run, iteration: int, figures: Figures, best: str | None, width: int) -> Table:
    title = f"{run.directory.path.name}, " + (
        f"iterations 0 to {iteration}" if iteration >= 0 else "before iteration 0"
    )
    ended = [f"; {stage.label}: training diverged" for stage in ends_of_arms(run.journal.entries())]
    rejected = [stage.label for stage in up_to(iteration) if run.decisions.on(stage).get("rejected")]
    caption = (
        CAPTION + (f" and people's votes, which rejected {listed(rejected, 6)}" if rejected else "") + "".join(ended)
    )
    metric = run.play.metric_for_best_iteration
    return run_table(figures, best, title=title, width=width, caption=caption, metric=metric)


@contextlib.contextmanager
def watched(
    run: Run, console: Console, phase: str, iteration: int, phases: Sequence[str], *, elsewhere: bool
) -> Iterator[None]:
    """Show the progress of a phase while the context lasts.

    A terminal that can move its cursor shows one line above the table of figures so far, and clears both at the end.
    Otherwise a line is printed at least every minute.

    Args:
        run: the run.
        console: console to print to: a terminal or a log.
        phase: the phase that is about to run.
        iteration: iteration of the phase.
        phases: the phases of every iteration, in order.
        elsewhere: whether the phase runs in separate processes, which report their progress in a file.
    """
    progress, phase_started = run.progress, time.monotonic()
    progress.part = ""
    progress.begin()
    run.directory.progress.unlink(missing_ok=True)
    entries = run.journal.entries()

    def renew(task: Task) -> None:
        if elsewhere:
            progress.read(run.directory.progress)
        now, of_run = time.monotonic(), None
        since_count = now - progress.started
        left = seconds_left_of_phase(entries, phase, iteration, now - phase_started, progress.seconds_left(now))
        if phase in phases:
            of_run = seconds_left_of_run(entries, phases, phase, iteration, run.play.num_iterations, left)
        task.completed, task.total = progress.done, progress.total or None
        task.fields |= {
            "part": progress.part,
            "what": progress.what,
            "rate": progress.rate(now),
            "token_rate": progress.tokens / since_count if progress.tokens and since_count else None,
            "seconds_left": left,
            "run_seconds_left": of_run,
        }

    name = phase if phase in (START, DPO, TEST) else f"{Stage.of(iteration)}: {phase}"
    shown: PhaseProgress | PhaseLog
    if console.is_interactive:
        shown = PhaseProgress(console, name, table_so_far(run, iteration, console.width, console.height), renew)
    else:
        shown = PhaseLog(name, renew, lambda line: terminal.tell(console, line))
    with _no_bars(run), shown:
        yield


@contextlib.contextmanager
def _no_bars(run: Run) -> Iterator[None]:
    """Turn progress bars off, and restore them afterwards."""
    with contextlib.ExitStack() as afterwards:
        if not datasets.are_progress_bars_disabled():
            afterwards.callback(datasets.enable_progress_bars)
        if transformers_logging.is_progress_bar_enabled():
            afterwards.callback(transformers_logging.enable_progress_bar)
        afterwards.callback(setattr, run.args, "disable_tqdm", run.args.disable_tqdm)
        afterwards.callback(os.environ.update, {name: value for name, value in os.environ.items() if name == _TQDM})
        afterwards.callback(os.environ.pop, _TQDM)
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()
        run.args.disable_tqdm, os.environ[_TQDM] = True, "1"
        yield


_TQDM = "TQDM_DISABLE"
"""Environment variable that TRL's own progress bars obey."""
