"""What a terminal shows while a phase runs: the table so far, and what runs, how fast, and how long it will take."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

BAR_WIDTH = 30


@dataclass(frozen=True)
class Status:
    """A phase that runs.

    Attributes:
        phase, stage: which.
        seconds: that it has run.
        what: is counted: answers, steps; empty while nothing is.
        done, total: how many.
        rate: of them a second; None before the first.
        token_rate: tokens generated a second; None where none are.
        seconds_left: of what is counted; None if nobody knows.
        run_seconds_left: of the whole run; None if nobody knows.
    """

    phase: str
    stage: str
    seconds: float
    what: str = ""
    done: int = 0
    total: int = 0
    rate: float | None = None
    token_rate: float | None = None
    seconds_left: float | None = None
    run_seconds_left: float | None = None


def view(status: Status, table: Table | None) -> RenderableType:
    """The status and its bar, above the table, if there is one: what does not fit a screen is cut at its bottom."""
    line: RenderableType = Text(status_line(status), no_wrap=True, overflow="ellipsis")
    if status.total:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(ProgressBar(status.total, status.done, width=BAR_WIDTH), line)
        line = grid
    return Group(line, *([table] if table is not None else []))


def status_line(status: Status) -> str:
    """The status in a line."""
    parts = [f"{status.stage}: {status.phase}"]
    if status.total:
        parts.append(f"{status.done:,} of {status.total:,} {status.what}")
    else:
        parts.append(f"for {clock(status.seconds)}")
    if status.token_rate is not None:
        parts.append(f"{status.token_rate:,.0f} tokens/s")
    elif status.rate is not None:
        parts.append(f"{status.rate:,.1f}/s" if status.rate >= 1 else f"{1 / status.rate:,.1f} s each")
    if status.seconds_left is not None:
        parts.append(f"{clock(status.seconds_left)} left")
    if status.run_seconds_left is not None:
        parts.append(f"run {clock(status.run_seconds_left)}")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
