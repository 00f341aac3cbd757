"""A cached file is used only if it is unchanged; a damaged one is rebuilt, with a message."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, load_from_disk

from messages import names
from spin_trl.data.caches import (
    CACHES,
    drop,
    drop_damaged,
    is_whole,
    is_whole_folder,
    mapped,
    note,
    note_all,
    note_folder,
)
from spin_trl.files import Checksum


def flip(path: Path) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one bit": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "emptied": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "no checksum": lambda path: path.with_name(f"{path.name}.checksum").unlink(),
    "checksum of another shape": lambda path: path.with_name(f"{path.name}.checksum").write_text(
        "{}", encoding="utf-8"
    ),
    "checksum that is no JSON": lambda path: path.with_name(f"{path.name}.checksum").write_text("[", encoding="utf-8"),
}


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    path = tmp_path / "cache-1.arrow"
    path.write_bytes(b"some bytes")
    note(path)
    return path


def test_a_checksum_is_size_and_hash_beside_the_file(noted: Path) -> None:
    found = json.loads((noted.parent / "cache-1.arrow.checksum").read_text(encoding="utf-8"))
    assert found == [10, hashlib.sha256(b"some bytes").hexdigest()]
    assert is_whole(noted)


def test_a_checksum_that_was_taken_while_writing_is_believed(noted: Path) -> None:
    """The file is not read a second time, so damage that the disk does to it is found at the next read."""
    note(noted, Checksum(10, "0" * 64))
    assert not is_whole(noted)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_removed_with_its_checksum(damage: Callable[[Path], object], noted: Path) -> None:
    """No other file is removed."""
    other = noted.with_name("cache-2.arrow")
    other.write_bytes(b"whole")
    note(other)
    damage(noted)
    assert not is_whole(noted)
    drop_damaged(noted.parent, CACHES)
    assert sorted(path.name for path in noted.parent.glob("*.arrow*")) == ["cache-2.arrow", "cache-2.arrow.checksum"]


def test_only_damage_is_spoken_of(noted: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file without a checksum may come from an earlier version, or be half-written."""
    flip(noted)
    drop(noted)
    assert names(caplog.text, noted)
    caplog.clear()
    noted.write_bytes(b"of an earlier version")
    with caplog.at_level(logging.DEBUG):
        drop(noted)
        drop(noted)
    assert not noted.exists()
    assert caplog.messages == []


def test_a_file_that_has_a_checksum_keeps_it(noted: Path) -> None:
    """Otherwise damage would be recorded as the content."""
    flip(noted)
    other = noted.with_name("cache-2.arrow")
    other.write_bytes(b"new")
    note_all([noted, other])
    assert (is_whole(noted), is_whole(other)) == (False, True)


@pytest.fixture
def saved(tmp_path: Path) -> Dataset:
    Dataset.from_dict({"x": [1, 2, 3]}).save_to_disk(tmp_path / "rows")
    return load_from_disk(tmp_path / "rows")


def test_a_map_is_computed_again_where_its_cache_is_damaged(saved: Dataset) -> None:
    calls: list[int] = []

    def double(row: dict[str, int]) -> dict[str, int]:
        calls.append(row["x"])
        return {"x": 2 * row["x"]}

    def once() -> list[int]:
        calls.clear()
        return list(mapped(saved, double, "a" * 16)["x"])

    (folder,) = {Path(file["filename"]).parent for file in saved.cache_files}
    assert (once(), calls) == ([2, 4, 6], [1, 2, 3])
    assert (once(), calls) == ([2, 4, 6], [])
    for damage in (DAMAGE["one bit"], DAMAGE["cut"], DAMAGE["no checksum"]):
        (cache,) = folder.glob(CACHES)
        damage(cache)
        assert (once(), calls) == ([2, 4, 6], [1, 2, 3])
        assert (once(), calls) == ([2, 4, 6], [])


def test_rows_in_memory_are_mapped_without_a_cache() -> None:
    rows = Dataset.from_dict({"x": [1, 2]})
    assert list(mapped(rows, lambda row: {"x": row["x"] + 1}, "b" * 16)["x"]) == [2, 3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {tmp_path / name: f"of {name}" for name in ("data-0.arrow", "state.json")}
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    note_folder(tmp_path, {path: Checksum.of(path) for path in files})
    return tmp_path


@pytest.mark.parametrize("name", ["one bit", "cut", "emptied", "gone"])
@pytest.mark.parametrize("file", ["data-0.arrow", "state.json", "checksums.json"])
def test_a_folder_is_whole_if_all_its_files_are(name: str, file: str, folder: Path) -> None:
    assert is_whole_folder(folder)
    (folder / "of the user.txt").touch()
    assert is_whole_folder(folder)
    DAMAGE[name](folder / file)
    assert not is_whole_folder(folder)


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"state.json": 3}', '{"state.json": [1]}', '{"state.json": null}'])
def test_checksums_of_another_shape_are_none(text: str, folder: Path) -> None:
    (folder / "checksums.json").write_text(text, encoding="utf-8")
    assert not is_whole_folder(folder)
