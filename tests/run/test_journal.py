"""The journal records finished steps, and survives a crash at any byte."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from messages import refused
from spin_trl.errors import RunDirectoryError
from spin_trl.run.journal import Decisions, Journal, Step, diverged, end_of_arm, ends_of_arms, newest
from spin_trl.run.stage import Stage


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def phases(journal: Journal) -> list[tuple[str, str]]:
    return [(entry["phase"], entry["stage"]) for entry in journal.entries()]


def test_a_new_journal_is_empty(journal: Journal) -> None:
    """The file need not exist."""
    assert journal.entries() == []
    assert journal.find("train", "iteration-0") is None
    assert not journal.path.exists()


def test_every_finished_step_is_a_line(journal: Journal) -> None:
    """Entries are in order, with figures and time."""
    journal.append("generate", "iteration-0", tokens=120)
    journal.append("train", "iteration-0", loss=0.693, pairs={"total": 8, "empty": 1})
    lines = [json.loads(line) for line in journal.path.read_text(encoding="utf-8").splitlines()]
    assert [line.keys() - {"crc32"} for line in lines] == [entry.keys() for entry in journal.entries()]
    assert phases(journal) == [("generate", "iteration-0"), ("train", "iteration-0")]
    assert lines[0]["tokens"] == 120
    assert lines[1]["pairs"] == {"total": 8, "empty": 1}
    assert lines[0]["time"] <= lines[1]["time"]


def test_the_newest_record_of_a_step_counts(journal: Journal) -> None:
    """A step that was played again has its newer figures; other stages and phases are separate steps."""
    for loss in (0.7, 0.5):
        journal.append("train", "iteration-0", loss=loss)
    journal.append("train", "iteration-1", loss=0.3)
    journal.append("evaluate", "iteration-0", nll=2.0)
    found = journal.find("train", "iteration-0")
    assert found is not None
    assert found["loss"] == 0.5
    assert journal.find("generate", "iteration-0") is None


def test_a_journal_cut_at_any_byte_keeps_its_whole_lines(journal: Journal) -> None:
    """A partially written last line is ignored, wherever it was cut, and the next line is readable."""
    journal.append("generate", "iteration-0", note="θ and é")
    first = len(journal.path.read_bytes())
    journal.append("train", "iteration-0", loss=0.5)
    whole = journal.path.read_bytes()
    for length in range(first, len(whole)):
        journal.path.write_bytes(whole[:length])
        assert phases(journal) == [("generate", "iteration-0")]
        journal.append("evaluate", "iteration-0")
        assert phases(journal) == [("generate", "iteration-0"), ("evaluate", "iteration-0")]
        assert journal.path.read_bytes().count(b"\n") == 2


def test_zeros_behind_the_last_line_are_passed_over(journal: Journal) -> None:
    """Some file systems leave zeros after a power failure."""
    journal.append("generate", "iteration-0")
    with journal.path.open("ab") as file:
        file.write(b"\0" * 40 + b"\n" + b"\0" * 10)
    assert phases(journal) == [("generate", "iteration-0")]
    journal.append("train", "iteration-0")
    assert phases(journal) == [("generate", "iteration-0"), ("train", "iteration-0")]


def test_a_full_disk_leaves_the_journal_readable(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that could not be recorded counts as unfinished; earlier ones are kept."""
    journal.append("generate", "iteration-0")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with refused(OSError, f"Errno {errno.ENOSPC}"):
            journal.append("train", "iteration-0")
    assert ("generate", "iteration-0") in phases(journal)
    journal.append("evaluate", "iteration-0")
    assert phases(journal)[-1] == ("evaluate", "iteration-0")


def test_a_record_is_on_the_disk_before_the_next_step(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole line is flushed and synced."""
    synced: list[bytes] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(journal.path.read_bytes()), fsync(handle))[1])
    journal.append("generate", "iteration-0")
    assert synced == [journal.path.read_bytes()]
    assert synced[0].endswith(b"}\n")


def test_two_processes_may_write_at_the_same_time(journal: Journal) -> None:
    """If a stage is benchmarked while the run is playing, no line is lost."""
    write = (
        "import sys, pathlib; from spin_trl.run.journal import Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "for number in range(150): journal.append('phase', sys.argv[2], number=number)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", write, str(journal.path), name]) for name in ("one", "two")]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    for name in ("one", "two"):
        assert [entry["number"] for entry in journal.entries() if entry["stage"] == name] == list(range(150))


def test_the_newest_entry_of_a_step_is_found_among_entries() -> None:
    entries = [
        {"phase": "train", "stage": name, "loss": loss} for name, loss in (("iteration-0", 1), ("iteration-1", 2))
    ]
    assert newest(entries, Step.TRAIN)["loss"] == 2
    assert newest(entries, Step.TRAIN, "iteration-0")["loss"] == 1
    assert newest(entries, Step.GATE) == newest([], Step.TRAIN) == {}


def test_decisions_lead_from_iteration_to_iteration() -> None:
    """Iteration 1 was discarded: iteration 2 started from iteration 0 again, with half the learning rate."""

    def gate(number: int, opponent: str, lr_scale: float) -> dict[str, object]:
        return {"phase": "gate", "stage": f"iteration-{number}", "opponent": opponent, "lr_scale": lr_scale}

    decisions = Decisions([gate(0, "iteration-0", 1.0), gate(1, "iteration-1", 1.0), gate(1, "iteration-0", 0.5)])
    assert [decisions.opponent(number) for number in range(4)] == [
        "start",
        "iteration-0",
        "iteration-0",
        "iteration-2",
    ]
    assert [decisions.lr_scale(number) for number in range(4)] == [1.0, 1.0, 0.5, 1.0]
    assert decisions.lineage(3) == [0, 2, 3]
    assert decisions.after(3) == {}


@pytest.mark.parametrize(
    ("damaged", "what"),
    [
        ('{"stage": "iteration-0", "time": 1.0}', "`phase`"),
        ('{"phase": "train", "time": 1.0}', "`stage`"),
        ('{"phase": "gate", "stage": "iteration-0", "decision": "improved", "opponent": 3}', "`opponent`"),
        ('{"phase": "gate", "stage": "iteration-0", "decision": "improved", "reason": 0.5}', "`reason`"),
        ('{"phase": "train", "stage": "iteration-0", "pairs": {"total": 4, "empty": [1]}}', "`pairs`"),
        ('{"phase": "prepare", "stage": "data", "dataset": 3}', "`dataset`"),
        ('{"phase": "prepare", "stage": "data"}', "`dataset`"),
        ('{"phase": "given", "stage": "start"}', "`digest`"),
        ('{"phase": "lost", "stage": "iteration-0"}', "`lost`"),
        ('{"phase": "lower", "stage": "iteration-0", "lr_scale": 0.5}', "`back_to`"),
        ('{"phase": ["train"], "stage": "iteration-0"}', "`phase`"),
        ('{"phase": "tra', "JSON"),
        ('{"phase": "train", "stage": "../elsewhere"}', "`stage`"),
        ('{"phase": "train", "stage": "start", "files": []}', "`files`"),
        ('{"phase": "train", "stage": "start", "files": {"start/model/config.json": [1]}}', "config.json"),
        ('{"phase": "train", "stage": "start", "files": {"start/model/config.json": ["1", 2]}}', "config.json"),
        ('{"phase": "train", "stage": "start", "files": {"start/../../mine": [1, "0"]}}', "start/../../mine"),
        ('{"phase": "train", "stage": "start", "files": {"/etc/mine": [1, "0"]}}', "/etc/mine"),
    ],
)
def test_a_damaged_entry_is_refused_with_its_line(journal: Journal, damaged: str, what: str) -> None:
    """A run that ignored it would repeat steps and forget decisions."""
    journal.append(Step.GENERATE, "iteration-0")
    journal.append(Step.TRAIN, "iteration-0")
    first, last = journal.path.read_text(encoding="utf-8").splitlines()
    journal.path.write_text(f"{first}\n{damaged}\n{last}\n", encoding="utf-8")
    for use in (journal.entries, lambda: journal.append(Step.TRAIN, "iteration-1")):
        with refused(RunDirectoryError, journal.path, "line 2", what):
            use()


def test_a_step_whose_work_was_lost_is_not_done(journal: Journal) -> None:
    """It counts as done once it is played again; other steps are unaffected."""
    journal.append(Step.GENERATE, "iteration-0", tokens=5)
    journal.append(Step.TRAIN, "iteration-0")
    journal.append(Step.LOST, "iteration-0", lost=Step.GENERATE)
    assert journal.find(Step.GENERATE, "iteration-0") is None
    assert journal.find(Step.TRAIN, "iteration-0") is not None
    journal.append(Step.GENERATE, "iteration-0", tokens=6)
    found = journal.find(Step.GENERATE, "iteration-0")
    assert found is not None
    assert found["tokens"] == 6


def test_the_end_of_an_arm_is_not_the_end_of_the_run(journal: Journal) -> None:
    """It holds for the arm's later stages until the stage is trained again; best SFT's stages do not continue each other."""
    arm, later, best = Stage.of(0, "sft"), Stage.of(2, "sft"), Stage.of(0, "sft-best")
    journal.append("evaluate", "iteration-0")
    journal.append("diverged", arm, on_nan="stop")
    journal.append("diverged", best, on_nan="stop")
    entries = journal.entries()
    assert diverged(entries) == {}
    assert list(ends_of_arms(entries)) == [arm, best]
    assert end_of_arm(entries, arm)["stage"] == end_of_arm(entries, later)["stage"] == arm
    assert end_of_arm(entries, Stage.of(0, "sft-dft")) == end_of_arm(entries, Stage.of(1, "sft-best")) == {}
    journal.append("diverged", later, on_nan="stop")
    journal.append("train", arm)
    assert end_of_arm(journal.entries(), Stage.of(1, "sft")) == {}
    assert end_of_arm(journal.entries(), later)["stage"] == later
    journal.append("lost", later, lost="train")
    assert list(ends_of_arms(journal.entries())) == [best]
    journal.append("diverged", "iteration-1", on_nan="stop")
    assert diverged(journal.entries())["stage"] == "iteration-1"
