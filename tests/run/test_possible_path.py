"""A path that can't be a run directory is refused with the reason and a way out before anything is created."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from messages import names, refused
from spin_trl.errors import RunDirectoryError
from spin_trl.run.directory import RunDirectory
from spin_trl.run.marker import MARKER
from spin_trl.run.ownership import Ownership


@pytest.mark.parametrize("name", ["s3://bucket/run", "hf://datasets/me/x", "a::b"])
def test_an_address_is_refused_as_a_run_directory(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would become a local folder with that name, while rows would be saved elsewhere."""
    monkeypatch.chdir(tmp_path)
    with refused(RunDirectoryError, Path(name), "address"):
        Ownership(Path(name)).claim()
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """The run's files are UTF-8, so they could not refer to it."""
    with refused(RunDirectoryError, "UTF-8", "`run_dir`"):
        Ownership(tmp_path / os.fsdecode(b"run-\xff")).claim()
    assert not list(tmp_path.iterdir())


def test_a_name_that_the_process_can_not_write_is_refused_with_a_way_out(tmp_path: Path) -> None:
    """This happens in Python sessions; the command restarts itself in UTF-8."""
    code = "import pathlib, sys\nfrom spin_trl.run.ownership import Ownership\n"
    code += "try:\n    Ownership(pathlib.Path(sys.argv[1] + chr(252))).claim()\n"
    code += "except ValueError as error:\n    sys.exit(ascii(str(error)))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert names(done.stderr, "ascii", "PYTHONUTF8=1", "`run_dir`")


@pytest.mark.parametrize("name", ["run", "runs/nested"])
def test_a_link_to_what_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    """For example, the disk of the run directory or of a parent folder may not be mounted. Nothing is created."""
    (tmp_path / Path(name).parts[0]).symlink_to(tmp_path / "not-mounted")
    with refused(RunDirectoryError, tmp_path / name, "link", tmp_path / "not-mounted", "`run_dir`"):
        Ownership(tmp_path / name).claim()
    assert [path.name for path in tmp_path.iterdir()] == [Path(name).parts[0]]


def _taken(path: Path) -> Path:
    path.write_text("mine", encoding="utf-8")
    return path


def _to_itself(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def _marked_by_a_folder(path: Path) -> Path:
    (path / MARKER).mkdir(parents=True)
    return path


def _marked_by_a_link_to_itself(path: Path) -> Path:
    path.mkdir()
    return _to_itself(path / MARKER).parent


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(_taken, id="file"),
        pytest.param(lambda path: _taken(path) / "run", id="below-a-file"),
        pytest.param(_to_itself, id="link-to-itself"),
        pytest.param(_marked_by_a_folder, id="marker-is-a-folder"),
        pytest.param(_marked_by_a_link_to_itself, id="marker-leads-to-itself"),
        pytest.param(_pipe, id="pipe"),
        pytest.param(lambda path: path.with_name("a" * 300), id="long-name"),
        pytest.param(lambda path: path / "/".join(["a"] * 2_500), id="long-path"),
        pytest.param(lambda path: path.with_name("a\0b"), id="nul"),
        pytest.param(lambda path: Path("/dev/null"), id="device"),
    ],
)
def test_what_can_be_no_folder_is_refused(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """The message names the path and the reason."""
    path = make(tmp_path / "it")
    with refused(RunDirectoryError) as refusal:
        RunDirectory(path).claim("continue")
    said = str(refusal.value)
    assert repr(str(path)[:50])[1:-1] in said
    assert len(said) < 1_000


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_what_the_system_does_not_let_happen_is_a_refusal(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "run"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with refused(RunDirectoryError, tmp_path / "run", f"Errno {number}", "`run_dir`"):
        RunDirectory(tmp_path / "run").claim("continue")


def test_a_full_disk_is_no_matter_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another `run_dir` on the same disk would not help."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "run"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with refused(OSError, f"Errno {errno.ENOSPC}"):
        RunDirectory(tmp_path / "run").claim("continue")
