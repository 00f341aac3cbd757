"""The marker of a run directory says what belongs to the run, and is believed only as it was written."""

from __future__ import annotations

from pathlib import Path

from messages import refused
from spin_trl.errors import RunDirectoryError
from spin_trl.run.marker import MARKER
from spin_trl.run.ownership import Ownership


def test_a_marker_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    """So is one that names what is not in the directory."""
    for text in ("{", "[]", '{"entries": {"data": "../data"}}', '{"entries": {"data": ".."}}'):
        (tmp_path / MARKER).write_text(text, encoding="utf-8")
        with refused(RunDirectoryError, tmp_path / MARKER):
            Ownership(tmp_path).claim()


def test_a_marker_that_says_something_else_is_an_error(tmp_path: Path) -> None:
    """One bit of a name would send the run to another folder."""
    ownership = Ownership(tmp_path)
    ownership.claim()
    ownership.own("iteration-0")
    marker = tmp_path / MARKER
    marker.write_text(marker.read_text(encoding="utf-8").replace("iteration-0", "iteration-1"), encoding="utf-8")
    with refused(RunDirectoryError, marker):
        ownership.marker()
