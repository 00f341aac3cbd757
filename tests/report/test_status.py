"""A running phase shows its progress."""

import io
import threading
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Task, TaskID
from rich.table import Table

from spin_trl.report import status
from spin_trl.report.status import LOGS_EVERY, PhaseLog, PhaseProgress, clock, status_line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.4, "59:59"), (3723, "1:02:03"), (90000, "25:00:00")],
)
def test_a_duration_is_written_as_a_clock_does(seconds: float, text: str) -> None:
    assert clock(seconds) == text


TRAINING: dict[str, Any] = {
    "description": "iteration-0: train",
    "completed": 5,
    "total": 10,
    "fields": {"what": "steps"},
}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (TRAINING | {"total": None}, "iteration-0: train, 1:01 elapsed"),
        (
            TRAINING | {
                "total": 1200,
                "fields": {"what": "steps", "rate": 0.5, "seconds_left": 2390.0, "run_seconds_left": 4000.0},
            },
            "iteration-0: train, 5 of 1,200 steps, 2.0 s each, 39:50 left, run 1:06:40 left",
        ),
        (
            {
                "description": "iteration-1: train", "completed": 500, "total": 1200,
                "fields": {"what": "steps", "rate": 50.0, "seconds_left": 14.0, "run_seconds_left": None},
            },
            "iteration-1: train, 500 of 1,200 steps, 50.0/s, 0:14 left",
        ),
        (
            {
                "description": "iteration-1: generate", "completed": 64, "total": 640,
                "fields": {"what": "answers", "rate": 8.0, "token_rate": 12345.6, "seconds_left": 72.0},
            },
            "iteration-1: generate, 64 of 640 answers, 12,346 tokens/s, 1:12 left",
        ),
        (
            {
                "description": "iteration-1: generate", "completed": 0, "total": 640,
                "fields": {"what": "answers", "rate": None, "token_rate": None, "seconds_left": None},
            },
            "iteration-1: generate, 0 of 640 answers, 1:01 elapsed",
        ),
        (
            {
                "description": "iteration-1: baseline", "completed": 3, "total": 6,
                "fields": {"part": "plain SFT", "what": "steps", "rate": 3.0, "seconds_left": 0.0},
            },
            "iteration-1: baseline, plain SFT, 3 of 6 steps, 3.0/s",
        ),
    ],
)  # fmt: skip
def test_the_line_says_what_runs_how_fast_and_how_long(status: dict[str, Any], text: str) -> None:
    task = Task(TaskID(0), _get_time=lambda: 61.0, **status)
    task.start_time = 0.0
    assert status_line(task) == text


def rendered(table: Table | None, width: int = 100, **fields: float) -> list[str]:
    """Return the lines that a terminal shows for a training phase."""

    def renew(task: Task) -> None:
        task.completed, task.total = TRAINING["completed"], TRAINING["total"]
        task.fields |= TRAINING["fields"] | fields

    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    progress = PhaseProgress(console, TRAINING["description"], table, renew)
    with console.capture() as capture:
        console.print(progress.get_renderable())
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_table_stands_below_the_line_and_a_bar_beside_it() -> None:
    table = Table("model")
    table.add_row("start")
    lines = rendered(table, rate=2.0)
    assert any("start" in line for line in lines[1:])
    assert lines[0].startswith("━" * 15)
    assert lines[0].endswith("iteration-0: train, 5 of 10 steps, 2.0/s")


def test_a_narrow_terminal_gets_one_line_all_the_same() -> None:
    (line,) = rendered(None, width=50, rate=2.0, seconds_left=9.0, run_seconds_left=99.0)
    assert len(line) <= 50


def test_a_log_gets_lines_until_the_phase_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "LOGS_EVERY", 0.01)
    said: list[str] = []
    third = threading.Event()

    def renew(task: Task) -> None:
        task.completed, task.total = len(said), 10
        task.fields |= {"what": "steps", "rate": 2.0, "seconds_left": 90.0, "run_seconds_left": 3600.0}

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            third.set()
            raise OSError("no space left")  # like that of a log on a full disk, which is no reason to end a run

    with PhaseLog("iteration-1: train", renew, say):
        assert third.wait(60)
    count = len(said)
    assert said[1] == "iteration-1: train, 1 of 10 steps, 2.0/s, 1:30 left, run 1:00:00 left"
    assert not threading.Event().wait(0.05)
    assert len(said) == count


def test_a_log_gets_a_line_at_least_every_minute() -> None:
    assert LOGS_EVERY < 60
