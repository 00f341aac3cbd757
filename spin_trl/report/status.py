"""What is shown while a phase runs: what runs, how fast, and how long it will take.

A terminal has one line that moves, above the table so far. A log has a line now and then.
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
"""A second."""

LOGS_EVERY = 50.0
"""Seconds: less than a minute, also where a busy process is late."""


class PhaseProgress(Progress):
    """rich's progress of a phase. Nothing of it stays on the screen.

    Args:
        console: of a terminal.
        name: of the phase and its stage.
        table: of what has been measured, or None. It stands below: what does not fit a screen is cut at its bottom.
        renew: brings the task up to date, before every refresh.
    """

    def __init__(self, console: Console, name: str, table: Table | None, renew: Callable[[Task], None]) -> None:
        self._table, self._renew = table, renew
        columns = BarColumn(BAR_WIDTH), _StatusColumn()
        super().__init__(*columns, console=console, refresh_per_second=REFRESHES, transient=True)
        self.add_task(name, total=None)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar and the line, then the table."""
        for task in self.tasks:
            self._renew(task)
        yield self.make_tasks_table(self.tasks)
        if self._table is not None:
            yield self._table


class PhaseLog:
    """A context in which a log gets a line now and then of how far a phase is.

    Args:
        name: the phase and its stage.
        renew: brings the task up to date, before every line.
        say: prints a line. It is called from a thread, every [`LOGS_EVERY`] seconds: a phase that ends sooner gets no line.
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
            with contextlib.suppress(OSError):  # nobody loses a run because nobody can read its log
                self._say(status_line(self._task))


class _StatusColumn(ProgressColumn):
    """One line, however narrow the terminal: what matters most comes first."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))

    def render(self, task: Task) -> Text:
        return Text(status_line(task), no_wrap=True, overflow="ellipsis")


def status_line(task: Task) -> str:
    """How far a phase is, in a line.

    Args:
        task: its fields are `what` is counted (answers, steps), its `rate` and `token_rate` a second, and
            `seconds_left` of the phase and `run_seconds_left`, which are missing or None while nobody knows them. rich's
            own rate would count what was done before an interrupt, and forget steps of more than half a minute.
    """
    rate, token_rate, left, of_run = map(task.fields.get, ("rate", "token_rate", "seconds_left", "run_seconds_left"))
    parts = [task.description]
    if task.total:
        parts.append(f"{task.completed:,} of {task.total:,} {task.fields['what']}")
    else:
        parts.append(f"for {clock(task.elapsed or 0.0)}")
    if token_rate is not None:
        parts.append(f"{token_rate:,.0f} tokens/s")
    elif rate is not None:
        parts.append(f"{rate:,.1f}/s" if rate >= 1 else f"{1 / rate:,.1f} s each")
    if left is not None:
        parts.append(f"{clock(left)} left")
    if of_run is not None:
        parts.append(f"run {clock(of_run)}")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
