"""Progress of a running phase: what is running, how fast, and the time left.

A terminal shows a live status line above the table so far; a log gets a line at regular intervals.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column, Table
from rich.text import Text

BAR_WIDTH = 30

REFRESHES = 4
"""Refreshes of the terminal per second."""

LOGS_EVERY = 50.0
"""Seconds between log lines: short enough to stay below a minute even if a busy process is late."""


class PhaseProgress(Progress):
    """rich's progress display for a phase. It is removed from the screen when the phase ends.

    Args:
        console: console of a terminal.
        name: name of the phase and its stage.
        table: table of the figures so far, or None. It is shown last, because what does not fit on the screen is cut off at
            the bottom.
        renew: function that updates the task before every refresh.
    """

    def __init__(self, console: Console, name: str, table: Table | None, renew: Callable[[Task], None]) -> None:
        self._table, self._renew = table, renew
        columns = BarColumn(BAR_WIDTH), _StatusColumn()
        super().__init__(*columns, console=console, refresh_per_second=REFRESHES, transient=True)
        self.add_task(name, total=None)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the progress bar with its status line, then the table."""
        for task in self.tasks:
            self._renew(task)
        yield self.make_tasks_table(self.tasks)
        if self._table is not None:
            yield self._table


class PhaseLog:
    """Context manager that regularly logs the progress of a phase.

    Args:
        name: name of the phase and its stage.
        renew: function that updates the task before every line.
        say: function that prints a line. It is called from a separate thread every [`LOGS_EVERY`] seconds, so a phase that
            ends sooner logs no line.
    """

    def __init__(self, name: str, renew: Callable[[Task], None], say: Callable[[str], None]) -> None:
        self._renew, self._say = renew, say
        self._task = Task(TaskID(0), name, total=None, completed=0, _get_time=time.monotonic)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._lines, daemon=True)

    def __enter__(self) -> PhaseLog:
        self._task.start_time = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _lines(self) -> None:
        while not self._ended.wait(LOGS_EVERY):
            self._renew(self._task)
            with contextlib.suppress(OSError):  # a run must not fail because its log can't be written
                self._say(status_line(self._task))


class _StatusColumn(ProgressColumn):
    """The status line, kept to one line in a narrow terminal: the most important parts come first."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))

    def render(self, task: Task) -> Text:
        return Text(status_line(task), no_wrap=True, overflow="ellipsis")


def status_line(task: Task) -> str:
    """Return the progress of a phase in one line.

    Args:
        task: task with the fields `part` (the part of the phase that runs: a baseline arm), `what` (the unit counted:
            answers, steps), `rate` and `token_rate` (per second), `seconds_left` (of the phase) and `run_seconds_left`, each
            missing or None while unknown. rich's own rate would count work done before an interruption and forget steps that
            take more than half a minute.
    """
    rate, token_rate, left, of_run = map(task.fields.get, ("rate", "token_rate", "seconds_left", "run_seconds_left"))
    part = task.fields.get("part")
    parts = [task.description, part] if part else [task.description]
    if task.total:
        parts.append(f"{task.completed:,} of {task.total:,} {task.fields['what']}")
    if rate is None:  # nothing is done yet, or nothing is counted: the time at least shows that the phase is running
        parts.append(f"{clock(task.elapsed or 0.0)} elapsed")
    if token_rate is not None:
        parts.append(f"{token_rate:,.0f} tokens/s")
    elif rate is not None:
        parts.append(f"{rate:,.1f}/s" if rate >= 1 else f"{1 / rate:,.1f} s each")
    if left:  # a phase that takes longer than expected has no time left, but is not done either
        parts.append(f"{clock(left)} left")
    if of_run is not None:
        parts.append(f"run {clock(of_run)} left")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds: `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
