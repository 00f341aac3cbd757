"""The marker of a run directory lists what belongs to the run, and is trusted only if unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from messages import names, refused
from spin_trl.errors import RunDirectoryError
from spin_trl.run.marker import COMPARISON, MARKER, Marker, read_marker
from spin_trl.run.ownership import Ownership


def test_a_marker_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    """So is one that names something outside the directory."""
    for text in ("{", "[]", '{"entries": {"data": "../data"}}', '{"entries": {"data": ".."}}'):
        (tmp_path / MARKER).write_text(text, encoding="utf-8")
        with refused(RunDirectoryError, tmp_path / MARKER):
            Ownership(tmp_path).claim()


def test_a_marker_that_says_something_else_is_an_error(tmp_path: Path) -> None:
    """A single flipped bit in a name would direct the run to another folder."""
    ownership = Ownership(tmp_path)
    ownership.claim()
    ownership.own("iteration-0")
    marker = tmp_path / MARKER
    marker.write_text(marker.read_text(encoding="utf-8").replace("iteration-0", "iteration-1"), encoding="utf-8")
    with refused(RunDirectoryError, marker):
        ownership.marker()


WHOLE = Marker(
    {"start": "start", "iteration-0": "iteration-0-2"}, frozenset({"data"}), "..", COMPARISON, ("/a", "/b"), "0" * 32
)


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("marker", [WHOLE, Marker(), Marker({"data": "data"}, places=("/a",))])
def test_a_marker_reads_as_it_was_written(marker: Marker, tmp_path: Path) -> None:
    assert read_marker(write(tmp_path / MARKER, marker.as_dict())) == marker


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "run"),
        ("entries", {}),
        ("places", ["/c"]),
        ("identity", "1" * 32),
        ("paths_from", None),
        ("adopted", []),
    ],
)
def test_any_other_value_is_found_by_the_checksum(name: str, value: Any, tmp_path: Path) -> None:
    with refused(RunDirectoryError, tmp_path / MARKER, "`run_dir`"):
        read_marker(write(tmp_path / MARKER, {**WHOLE.as_dict(), name: value}))


def test_a_marker_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    found = WHOLE.as_dict()
    for name in ("checksum", "places", "identity"):
        del found[name]
    marker = read_marker(write(tmp_path / MARKER, found))
    assert marker is not None
    assert (marker.entries, marker.places, marker.identity) == (WHOLE.entries, (), None)


@pytest.mark.parametrize("here", ["", ".", "..", "../a", "a/b", "/etc"])
def test_no_entry_leads_out_of_the_directory(here: str, tmp_path: Path) -> None:
    """This also holds for a marker without a checksum, since entries in a marker can be removed."""
    with refused(RunDirectoryError, tmp_path / MARKER):
        read_marker(write(tmp_path / MARKER, {"entries": {"data": here}}))


@pytest.mark.parametrize(
    "content", ["", "{", "null", "[]", "{}", '{"entries": 3}', '{"entries": {}, "places": 3}', "[" * 9_999]
)
def test_what_is_no_marker_is_refused(content: str, tmp_path: Path) -> None:
    with refused(RunDirectoryError, tmp_path / MARKER):
        read_marker(write(tmp_path / MARKER, content))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_bytes(b"\xff\x00")
    with refused(RunDirectoryError, tmp_path / MARKER):
        read_marker(tmp_path / MARKER)


@pytest.mark.parametrize("path", ["nowhere", "nowhere/below", "x" * 300, "a\0b"])
def test_where_nothing_is_there_is_no_marker(path: str, tmp_path: Path) -> None:
    assert read_marker(tmp_path / path / MARKER) is None


def test_a_file_in_the_way_holds_no_marker(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_marker(tmp_path / "file" / MARKER) is None


def test_whoever_looks_into_the_folder_is_told_whose_it_is() -> None:
    assert names(WHOLE.as_dict()["about"], "comparison")
    assert names(Marker().as_dict()["about"], "run")
