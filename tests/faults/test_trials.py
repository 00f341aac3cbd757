"""Trials have numbers, and are shared by processes until the time is up."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.acts import TOP
from faults.outcome import Outcome, Verdict
from faults.trials import Trial, in_turn, numbered, play


def trial(part: str, name: str) -> Trial:
    """Return a trial that checks whether its folder is new."""

    def check(folder: Path) -> Outcome:
        if name == "broken":
            raise ValueError(name)
        folder.mkdir()
        return Outcome(Verdict.SAME, folder.name)

    return Trial(part, name, check)


TRIALS = numbered([(0, [trial("kills", str(number)) for number in range(4)]), (100, [trial("disks", "broken")] * 2)])


def test_every_part_comes_on_alike() -> None:
    assert list(TRIALS) == [0, 1, 2, 3, 100, 101]
    assert in_turn(TRIALS) == [0, 100, 1, 2, 101, 3]


def test_each_is_made_once_and_a_broken_one_is_a_fault(tmp_path: Path) -> None:
    found = {tried.number: tried.outcome for tried in play(TRIALS, list(TRIALS), tmp_path, 2, time.monotonic() + 60)}
    assert sorted(found) == list(TRIALS)
    assert found[2] == Outcome(Verdict.SAME, "trial-2")
    assert found[100].verdict is Verdict.TRACEBACK
    assert list(tmp_path.iterdir()) == []


def test_none_is_begun_after_the_time(tmp_path: Path) -> None:
    assert list(play(TRIALS, list(TRIALS), tmp_path, 2, time.monotonic())) == []


@pytest.mark.slow
def test_the_runs_are_played_and_the_table_is_printed() -> None:
    """One trial of each part is run; `make test-faults` runs as many as there is time for."""
    command = [sys.executable, "-m", "faults", "--seed", "1", "--minutes", "0"]
    done = subprocess.run(command, cwd=TOP / "tests", capture_output=True, encoding="utf-8", timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert "Seed 1." in done.stdout
    assert "silent differences" in done.stdout
