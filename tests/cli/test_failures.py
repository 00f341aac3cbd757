"""Every error that ends a command gives a message and an exit code, and leaves a useful traceback that is easy to find."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from messages import names
from spin_trl.cli import failures, main
from spin_trl.errors import DataError, full_disk
from spin_trl.run.ownership import Ownership

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes a command end with an error, and returns the exit code."""

    def run(error: BaseException, run_dir: str = "run") -> int:
        def end(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr("spin_trl.report.write.write_report", end)
        return main(["report", run_dir])

    return run


@pytest.fixture
def run_dir() -> Path:
    """Return a run directory that does not contain a run yet."""
    Ownership(Path("run")).claim()
    return Path("run")


def test_an_error_that_nobody_has_foreseen_names_its_class_and_frame(ends: Any, run_dir: Path, capsys: Any) -> None:
    """The traceback is written to the run directory, and belongs to the run."""
    assert ends(KeyError("weights")) == 1
    said = capsys.readouterr().err
    assert said.startswith("spin-trl: ")
    assert names(said, "KeyError", "'weights'", "test_failures.py:", "in end", "run/traceback.txt")
    assert "Traceback" not in said
    written = (run_dir / "traceback.txt").read_text(encoding="utf-8")
    assert "Traceback" in written
    marker = json.loads((run_dir / ".spin_trl.json").read_text(encoding="utf-8"))
    assert marker["entries"]["traceback.txt"] == "traceback.txt"


def test_a_frame_in_a_folder_that_is_closed_is_named_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python may be installed in a folder that this user can't read."""

    def closed(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", closed)
    frame = traceback.FrameSummary("/closed/library/module.py", 3, "work")
    assert failures._frame_in_words(frame) == "module.py:3 in work"


def test_a_file_of_the_users_is_not_written_to(ends: Any, run_dir: Path, capsys: Any) -> None:
    (run_dir / "traceback.txt").write_text("mine", encoding="utf-8")
    assert ends(KeyError("weights")) == 1
    assert names(capsys.readouterr().err, "run/spin_trl-traceback.txt")
    assert (run_dir / "traceback.txt").read_text(encoding="utf-8") == "mine"


def test_tracebacks_of_several_processes_are_kept(
    ends: Any, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The processes of a launch fail one after another."""
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert ends(KeyError(f"of {rank}")) == 1
    written = (run_dir / "traceback.txt").read_text(encoding="utf-8")
    assert names(written, "process 0", "of 0", "process 1", "of 1")
    monkeypatch.setattr(failures, "MOST_BYTES", 10)
    assert ends(KeyError("the last")) == 1
    assert "of 0" not in (run_dir / "traceback.txt").read_text(encoding="utf-8")


def test_a_token_in_a_traceback_is_hidden(ends: Any, run_dir: Path, capsys: Any) -> None:
    token = "hf_" + "a" * 34
    assert ends(KeyError(token)) == 1
    assert token not in capsys.readouterr().err + (run_dir / "traceback.txt").read_text(encoding="utf-8")


def test_without_a_run_directory_the_traceback_is_printed(ends: Any, capsys: Any) -> None:
    """No folder is created for it, and nothing is written to another user's."""
    Path("run").mkdir()
    assert ends(KeyError("weights")) == 1
    assert names(capsys.readouterr().err, "KeyError", "Traceback")
    assert not list(Path("run").iterdir())


def test_a_disk_that_is_full_takes_no_traceback(
    ends: Any, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(*_: Any) -> None:
        raise FULL

    monkeypatch.setattr(Ownership, "own", full)
    assert ends(KeyError("weights")) == 1
    assert names(capsys.readouterr().err, "KeyError", "Traceback")


@pytest.mark.parametrize("error", [DataError("No rows."), FULL, KeyboardInterrupt(), KeyError("weights")], ids=repr)
def test_a_variable_shows_every_traceback(
    error: BaseException, ends: Any, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv(failures.SHOWS_TRACEBACK, "1")
    ends(error)
    assert "Traceback" in capsys.readouterr().err


class _UnsayableError(Exception):
    __str__ = None  # type: ignore[assignment]


class _Panic(BaseException):
    """Stand-in for PyO3's exception for a Rust panic."""


@pytest.mark.parametrize(
    "error", [_UnsayableError(), _Panic("index out of bounds"), RecursionError("too deep")], ids=repr
)
def test_what_is_no_usual_exception_is_a_message(error: BaseException, ends: Any, run_dir: Path, capsys: Any) -> None:
    assert ends(error) == 1
    assert names(capsys.readouterr().err, type(error).__name__, "run/traceback.txt")


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "there/rows.arrow"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "there/rows.arrow"),
        _caused(DataError("Rows can't be kept."), OSError(errno.ENOSPC, "No space left", "there/rows.arrow")),
        Exception("No space left on device (os error 28)"),
        _caused(ValueError("not saved"), RuntimeError("PytorchStreamWriter failed writing file data/3")),
    ],
    ids=repr,
)
def test_a_full_disk_is_said_whichever_library_meets_it(
    error: BaseException, ends: Any, run_dir: Path, capsys: Any
) -> None:
    """It is a failure, never bad input. The path is that of the file, or of the run if the library does not give one."""
    assert ends(error) == 1
    said = capsys.readouterr().err
    assert names(said, "disk", "there/rows.arrow" if "rows.arrow" in repr(full_disk(error)) else "run", "same command")
    assert not (run_dir / "traceback.txt").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EFBIG, "File too large", "there/model.safetensors"),
        Exception("Error while serializing: I/O error: File too large (os error 27)"),
    ],
    ids=repr,
)
def test_a_file_that_may_not_grow_is_a_failure(error: Exception, ends: Any, run_dir: Path, capsys: Any) -> None:
    assert ends(error) == 1
    assert names(capsys.readouterr().err, "`ulimit -f`", "same command", "run" if "Error" in str(error) else "there")


def test_a_text_that_speaks_of_full_disks_fills_none() -> None:
    assert full_disk(DataError("Row 3: 'No space left on device' is no answer.")) is None


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, 2), (errno.ENOTDIR, 2), (errno.EISDIR, 2), (errno.EEXIST, 2), (errno.ELOOP, 2),
        (errno.ENAMETOOLONG, 2), (errno.EACCES, 2), (errno.EROFS, 2), (errno.EIO, 1), (errno.EMFILE, 1), (errno.ESTALE, 1),
    ],
)  # fmt: skip
def test_what_the_system_says_of_a_path_is_a_message(
    number: int, code: int, ends: Any, run_dir: Path, capsys: Any
) -> None:
    assert ends(OSError(number, os.strerror(number), "there/it")) == code
    assert names(capsys.readouterr().err, "there/it", os.strerror(number))


def test_too_little_memory_is_a_message(ends: Any, run_dir: Path, capsys: Any) -> None:
    assert ends(MemoryError()) == 1
    assert names(capsys.readouterr().err, "memory", "`spin-trl plan`")


@pytest.mark.parametrize("error", [FULL, ValueError("I/O operation on closed file")])
def test_nothing_fails_twice(error: Exception, ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """stderr may be a file on the full disk, or closed."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    monkeypatch.setattr(sys, "stderr", Full())
    assert ends(KeyError("weights")) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(("stdout", "stderr"), [("/dev/full", None), (None, "/dev/full"), ("/dev/full", "/dev/full")])
def test_output_on_a_full_disk_ends_with_a_message_if_one_can_be_written(
    stdout: str | None, stderr: str | None
) -> None:
    """Python itself would print `Exception ignored` and exit with 120."""
    command = [sys.executable, "-m", "spin_trl", "recipes" if stdout else "report", *([] if stdout else ["nowhere"])]
    with (
        open(stdout or os.devnull, "w", encoding="utf-8") as out,
        open(stderr or "said.txt", "w", encoding="utf-8") as err,
    ):
        ended = subprocess.run(command, stdout=out, stderr=err, check=False, timeout=120)
    assert ended.returncode == (1 if stdout else 2)
    if stderr is None:
        said = Path("said.txt").read_text(encoding="utf-8")
        assert names(said, "disk")
        assert "Exception ignored" not in said
