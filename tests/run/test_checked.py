"""A large file is read for its checksum once, and again when it has changed."""

import os
from pathlib import Path

import pytest

from spin_trl.files import Checksum
from spin_trl.run import checked
from spin_trl.run.checked import CheckedFiles

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""SHA-256 of "abc": FIPS 180-2, appendix B.1."""


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record the files that are read."""
    found: list[Path] = []

    class Noted(Checksum):
        @classmethod
        def of(cls, path: Path) -> Checksum:
            found.append(path)
            return Checksum.of(path)

    monkeypatch.setattr(checked, "Checksum", Noted)
    return found


def test_a_file_is_read_once(tmp_path: Path, read: list[Path]) -> None:
    """This holds across processes on the same machine."""
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    for _ in range(2):
        assert CheckedFiles(tmp_path / "memory" / "checked.json").sha256(path) == ABC
    assert read == [path]


def test_a_file_that_has_changed_is_read_again(tmp_path: Path, read: list[Path]) -> None:
    """A change in modification time or length counts."""
    path, files = tmp_path / "abc", CheckedFiles(tmp_path / "checked.json")
    path.write_bytes(b"abd")
    files.sha256(path)
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 1))
    assert files.sha256(path) == ABC
    assert len(read) == 2


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 1}'])
def test_a_damaged_memory_is_none(tmp_path: Path, content: str, read: list[Path]) -> None:
    path, memory = tmp_path / "abc", tmp_path / "checked.json"
    path.write_bytes(b"abc")
    memory.write_text(content, encoding="utf-8")
    assert CheckedFiles(memory).sha256(path) == ABC


def test_where_nothing_can_be_written_files_are_read(tmp_path: Path, read: list[Path]) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    for _ in range(2):
        assert CheckedFiles(path / "below" / "checked.json").sha256(path) == ABC
    assert len(read) == 2
