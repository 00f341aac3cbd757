"""A run's memory: one JSON line for every finished step, flushed to the disk before the next one starts."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

MADE = frozenset({"generate", "train", "evaluate"})
"""Phases of entries that say what the loop has made. Others are decisions, reports, and benchmarks somebody asked for."""

PUSH, LICENSES = "push", "licenses"
OF_THE_HUB = frozenset({PUSH, LICENSES})
"""Phases of entries about the Hub: what has been pushed where, and what licences the Hub has for what the run began with."""


class Journal:
    """Append-only record of what finished, with its figures.

    A line that was being written when the machine died is passed over, and cut off before the next line is added.

    Args:
        path: of the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[dict[str, Any]]:
        """All finished steps, oldest first."""
        return [json.loads(line) for line in self._whole_lines()]

    def append(self, phase: str, stage: str, **figures: Any) -> None:
        """Record that a phase of a stage (`start`, `iteration-0`, ...) finished.

        Raises:
            OSError: the disk is full. What stood in the journal stays readable.
        """
        line = json.dumps({"phase": phase, "stage": stage, "time": round(time.time(), 3), **figures}, sort_keys=False)
        with self.path.open("ab") as file:
            # A stage may be benchmarked while the run plays on: two processes, and one would cut off the other's line.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(sum(len(part) + 1 for part in self._whole_lines()))
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def find(self, phase: str, stage: str) -> dict[str, Any] | None:
        """The newest record of a phase of a stage, or None if it has not finished."""
        found = [entry for entry in self.entries() if entry["phase"] == phase and entry["stage"] == stage]
        return found[-1] if found else None

    def _whole_lines(self) -> list[bytes]:
        """Lines up to the first that was not written to its end."""
        if not self.path.exists():
            return []
        *lines, _ = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines):
            try:
                json.loads(line)
            except ValueError:
                return lines[:number]
        return lines
