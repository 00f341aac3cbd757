"""A run's memory: one JSON line for every finished step, flushed to the disk before the next one starts."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from .stage import Stage

Entry = Mapping[str, Any]
"""A line of the journal: `phase`, a [`Step`]; `stage`, usually a [`Stage`]; `time`; and what the step has to tell."""

DATA, HUB = "data", "hub"
"""What entries name as their stage that are about no model: about the run's data, and about what the Hub says."""


class Step(StrEnum):
    """What a run can finish: every `phase` that an entry of the journal may have."""

    GIVEN = "given"
    """θ_0, given as an object, has been kept."""
    PREPARE = "prepare"
    """The dataset has become rows."""
    TRAIN = "train"
    """A stage's model has been trained; of the start: built."""
    GENERATE = "generate"
    """An iteration's opponent has answered the training prompts."""
    EVALUATE = "evaluate"
    """A stage's model has been measured on the held-out prompts."""
    GATE = "gate"
    """It was decided how the run goes on after an iteration."""
    TRACK = "track"
    """Trackers have an iteration's figures."""
    BENCHMARK = "lm-eval"
    """Somebody asked for a benchmark of a stage's model."""
    LICENSES = "licenses"
    """The Hub was asked for the licences of what the run began with."""
    PUSH = "push"
    """Something was pushed to the Hub."""


MADE = frozenset({Step.GENERATE, Step.TRAIN, Step.EVALUATE})
"""Steps that make what the next one needs, and what a run's time goes into. Others are decisions and reports."""

OF_THE_HUB = frozenset({Step.PUSH, Step.LICENSES})


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
        return [entry for _, entry in self._whole_lines()]

    def append(self, step: Step, stage: str, **figures: Any) -> None:
        """Record that a step of a stage (`start`, `iteration-0`, ...) finished.

        Raises:
            OSError: the disk is full. What stood in the journal stays readable.
        """
        line = json.dumps({"phase": step, "stage": stage, "time": round(time.time(), 3), **figures}, sort_keys=False)
        with self.path.open("ab") as file:
            # A stage may be benchmarked while the run plays on: two processes, and one would cut off the other's line.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(sum(len(part) + 1 for part, _ in self._whole_lines()))
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def find(self, step: Step, stage: str) -> Entry | None:
        """The newest record of a step of a stage, or None if it has not finished."""
        return newest(self.entries(), step, stage) or None

    def _whole_lines(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Lines up to the first that was not written to its end, and what they hold."""
        if not self.path.exists():
            return []
        *lines, _ = self.path.read_bytes().split(b"\n")
        found = []
        for line in lines:
            try:
                found.append((line, json.loads(line)))
            except ValueError:
                break
        return found


def is_of(entry: Entry, step: Step, stage: str | None = None) -> bool:
    """Whether an entry records this step, and of this stage where one is asked for."""
    return entry["phase"] == step and stage in (None, entry["stage"])


def newest(entries: Sequence[Entry], step: Step, stage: str | None = None) -> Entry:
    """The last entry that records this step, and of this stage where one is asked for; empty if there is none."""
    return next((entry for entry in reversed(entries) if is_of(entry, step, stage)), {})


class Decisions:
    """What was decided after the iterations of a run: from which model each one starts.

    Args:
        entries: of the journal.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._after = {entry["stage"]: entry for entry in entries if is_of(entry, Step.GATE)}

    def after(self, iteration: int) -> Entry:
        """The newest decision after an iteration (0-based); empty if it was not judged."""
        return self._after.get(Stage.of(iteration), {})

    def opponent(self, iteration: int) -> Stage:
        """The stage whose model is θ_t: that of the iteration before, unless the gate has fallen back to another one."""
        return Stage(self.after(iteration - 1).get("opponent", Stage.of(iteration - 1)))

    def lr_scale(self, iteration: int) -> float:
        """What an iteration's learning rate is multiplied by, after the gate has fallen back."""
        return self.after(iteration - 1).get("lr_scale", 1.0)

    def lineage(self, iteration: int) -> list[int]:
        """Iterations that have led to θ_{t+1}, oldest first: those that were given up are left out."""
        found = [iteration]
        while not (stage := self.opponent(found[0])).is_start:
            found.insert(0, stage.iteration)
        return found
