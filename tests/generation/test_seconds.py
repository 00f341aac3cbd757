"""The seconds that generation took add up in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from spin_trl.generation.seconds import SECONDS_FILE, add_seconds, seconds_in


def test_seconds_add_up(tmp_path: Path) -> None:
    assert seconds_in(tmp_path) == 0.0
    add_seconds(tmp_path, 1.5)
    add_seconds(tmp_path, 2.25)
    assert seconds_in(tmp_path) == 3.75
    assert (tmp_path / SECONDS_FILE).read_text(encoding="utf-8") == "3.750\n"


@pytest.mark.parametrize("content", [b"", b"soon", b"\xff"])
def test_a_damaged_count_begins_again(content: bytes, tmp_path: Path) -> None:
    (tmp_path / SECONDS_FILE).write_bytes(content)
    assert seconds_in(tmp_path) == 0.0
    add_seconds(tmp_path, 1.0)
    assert seconds_in(tmp_path) == 1.0
