"""Lets a terminal show a phase while it runs, in place of every library's progress bars."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence

import datasets
from rich.console import Console
from rich.live import Live
from rich.table import Table
from transformers.utils import logging as transformers_logging

from ..report.live import Status, view
from ..run.directory import START, iteration_stage
from ..run.progress import seconds_left_of_run
from ..run.run import Run

REFRESHES = 4
"""A second."""


@contextlib.contextmanager
def watched(
    run: Run,
    console: Console,
    phase: str,
    iteration: int,
    phases: Sequence[str],
    table: Table | None,
    *,
    elsewhere: bool = False,
) -> Iterator[None]:
    """Show a phase for as long as the context lasts. Nothing of it stays on the screen.

    Args:
        run: the run.
        console: of a terminal.
        phase: that is about to run.
        iteration: of it.
        phases: that every iteration has, in their order.
        table: of what has been measured, or None.
        elsewhere: whether it runs in processes of its own, which say in a file how far they are.
    """
    run.progress.begin()
    run.directory.progress.unlink(missing_ok=True)
    began, entries = time.monotonic(), run.journal.entries()

    def status() -> Status:
        now, progress = time.monotonic(), run.progress
        if elsewhere:
            progress.read(run.directory.progress)
        left = progress.seconds_left(now)
        of_run = None
        if phase in phases:
            of_run = seconds_left_of_run(entries, phases, phase, iteration, run.play.num_iterations, left)
        since_count = now - progress.started
        return Status(
            phase,
            START if phase == "start" else iteration_stage(iteration),
            now - began,
            progress.what,
            progress.done,
            progress.total,
            progress.rate(now),
            progress.tokens / since_count if progress.tokens and since_count else None,
            left,
            of_run,
        )

    live = Live(
        get_renderable=lambda: view(status(), table), console=console, refresh_per_second=REFRESHES, transient=True
    )
    with _no_bars(run), live:
        yield


@contextlib.contextmanager
def _no_bars(run: Run) -> Iterator[None]:
    """Progress bars off, and as they were afterwards."""
    shown = {
        "datasets": not datasets.are_progress_bars_disabled(),
        "transformers": transformers_logging.is_progress_bar_enabled(),
    }
    ours, of_tqdm = run.args.disable_tqdm, os.environ.get("TQDM_DISABLE")
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    run.args.disable_tqdm, os.environ["TQDM_DISABLE"] = True, "1"  # TRL's own bars ask for the latter
    try:
        yield
    finally:
        run.args.disable_tqdm = ours
        if of_tqdm is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = of_tqdm
        if shown["datasets"]:
            datasets.enable_progress_bars()
        if shown["transformers"]:
            transformers_logging.enable_progress_bar()
