"""What a terminal shows of a phase while it runs."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from spin_trl.report.status import Status, clock, status_line, view


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.4, "59:59"), (3723, "1:02:03"), (90000, "25:00:00")],
)
def test_a_duration_is_written_as_a_clock_does(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (Status("train", "iteration-0", 61.0), "iteration-0: train, for 1:01"),
        (
            Status("train", "iteration-0", 9.0, "steps", 5, 1200, 0.5, None, 2390.0, 4000.0),
            "iteration-0: train, 5 of 1,200 steps, 2.0 s each, 39:50 left, run 1:06:40",
        ),
        (
            Status("train", "iteration-1", 9.0, "steps", 500, 1200, 50.0, None, 14.0, None),
            "iteration-1: train, 500 of 1,200 steps, 50.0/s, 0:14 left",
        ),
        (
            Status("generate", "iteration-1", 9.0, "answers", 64, 640, 8.0, 12345.6, 72.0, None),
            "iteration-1: generate, 64 of 640 answers, 12,346 tokens/s, 1:12 left",
        ),
        (Status("generate", "iteration-1", 9.0, "answers", 0, 640), "iteration-1: generate, 0 of 640 answers"),
    ],
)
def test_the_line_says_what_runs_how_fast_and_how_long(status: Status, text: str) -> None:
    assert status_line(status) == text


def rendered(status: Status, table: Table | None, width: int = 100) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, color_system=None).print(view(status, table))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_the_table_stands_below_the_line_and_a_bar_beside_it() -> None:
    table = Table("model")
    table.add_row("start")
    lines = rendered(Status("train", "iteration-0", 1.0, "steps", 5, 10), table)
    assert any("start" in line for line in lines[1:])
    assert lines[0].startswith("━" * 15)
    assert lines[0].endswith("iteration-0: train, 5 of 10 steps")


def test_a_narrow_terminal_gets_one_line_all_the_same() -> None:
    (line,) = rendered(Status("train", "iteration-0", 1.0, "steps", 5, 10, 2.0, None, 9.0, 99.0), None, width=50)
    assert len(line) <= 50
