"""Training checkpoints that count: those whose manifest was written after everything else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from spin_trl.checkpoint import MANIFEST, latest, write_manifest


def checkpoint(folder: Path, step: int, num_processes: int = 1) -> Path:
    """A checkpoint of two files, one of them in a folder of its own, declared complete."""
    path = folder / f"checkpoint-{step}"
    (path / "inner").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights" * step)
    (path / "inner" / "rng.pth").write_bytes(b"state")
    write_manifest(path, num_processes)
    return path


def test_the_newest_is_found_by_its_step_not_by_its_name(tmp_path: Path) -> None:
    """Step 10 comes after step 9, and folders that are no checkpoints don't matter."""
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    for name in ("checkpoint-best", "checkpoint-", "runs", "checkpoint-11.tmp"):
        (tmp_path / name).mkdir()
    assert latest(tmp_path, 1) == newest


def test_there_may_be_none(tmp_path: Path) -> None:
    """An empty folder, or one that does not exist, has nothing to resume."""
    assert latest(tmp_path, 1) is None
    assert latest(tmp_path / "missing", 1) is None


def _without_manifest(path: Path) -> None:
    (path / MANIFEST).unlink()


def _cut_manifest(path: Path) -> None:
    whole = (path / MANIFEST).read_bytes()
    (path / MANIFEST).write_bytes(whole[: len(whole) // 2])


def _without_a_file(path: Path) -> None:
    (path / "inner" / "rng.pth").unlink()


def _cut_file(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"wei")


def _manifest_of_something_else(path: Path) -> None:
    (path / MANIFEST).write_text(json.dumps({"files": {}}), encoding="utf-8")


def _manifest_of_a_list(path: Path) -> None:
    (path / MANIFEST).write_text("[]", encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        _without_manifest,
        _cut_manifest,
        _without_a_file,
        _cut_file,
        _manifest_of_something_else,
        _manifest_of_a_list,
    ],
)
def test_a_half_written_one_is_passed_over(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the machine did not finish writing is skipped with a word, and the one before it is taken."""
    older = checkpoint(tmp_path, 4)
    damage(checkpoint(tmp_path, 5))
    assert latest(tmp_path, 1) == older
    assert "checkpoint-5 was not written to its end" in caplog.text


def test_another_number_of_processes_starts_from_the_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Random states and skipped batches fix the number; the log says what happens."""
    checkpoint(tmp_path, 5, num_processes=2)
    assert latest(tmp_path, 2) is not None
    assert latest(tmp_path, 1) is None
    assert "written by 2 processes; with 1, the iteration's training starts from its beginning" in caplog.text


def test_the_manifest_names_every_file_and_its_size(tmp_path: Path) -> None:
    """Written again, it does not list itself."""
    path = checkpoint(tmp_path, 3)
    write_manifest(path, 4)
    assert json.loads((path / MANIFEST).read_text(encoding="utf-8")) == {
        "num_processes": 4,
        "files": {"inner/rng.pth": 5, "model.safetensors": 21},
    }
