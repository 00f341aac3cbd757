"""Counts the seconds that generation into a folder has taken, in a file there. An interrupted attempt counts nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..files import write_atomically

SECONDS_FILE = "seconds.txt"
"""File of a folder with the seconds that its generation has taken so far."""


def seconds_in(folder: Path) -> float:
    """Return the seconds that generation into a folder has taken so far; 0 if they are not known."""
    with contextlib.suppress(OSError, ValueError):
        return float((folder / SECONDS_FILE).read_text(encoding="utf-8"))
    return 0.0


def add_seconds(folder: Path, seconds: float) -> None:
    """Add to the seconds that generation into a folder, which exists, has taken so far."""
    total = seconds_in(folder) + seconds
    write_atomically(folder / SECONDS_FILE, lambda target: target.write(f"{total:.3f}\n".encode()))
