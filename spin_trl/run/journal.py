"""A run's memory: one JSON line for every finished step, flushed to the disk before the next one starts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from ..errors import RunDirectoryError
from ..json_lines import DamagedLineError, JsonLines
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
    LOWER = "lower"
    """Training has diverged: it goes back (`back_to`, a step) with a smaller learning rate (`on_nan: lower`)."""
    DIVERGED = "diverged"
    """Training has diverged (`at_step`, `rows`) and has stopped, for a `reason`, with this `on_nan`: nothing was made."""
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
    LOST = "lost"
    """What a step of a stage (`lost`) made is not there any more, or damaged: the step is played again."""


MADE = frozenset({Step.GENERATE, Step.TRAIN, Step.EVALUATE})
"""Steps that make what the next one needs, and what a run's time goes into. Others are decisions and reports."""

OF_THE_HUB = frozenset({Step.PUSH, Step.LICENSES})


CHECKSUMS = "files"
"""Where an entry has the files that its step has made: `{name in the run directory: [bytes, SHA-256]}`."""

_SHAPES: Mapping[str, Mapping[str, type | tuple[type, ...]]] = MappingProxyType(
    {
        Step.GIVEN: {"digest": str},
        Step.PREPARE: {"dataset": str},
        Step.GATE: {"decision": str, "opponent": str},
        Step.LOST: {"lost": str},
        Step.LOWER: {"back_to": int, "lr_scale": float},
        Step.DIVERGED: {"reason": str, "on_nan": str},
    }
)
"""Of what type the values in an entry of a step are, besides `phase` and `stage`, as far as a run goes on by them."""


class Journal:
    """Append-only record of what finished, with its figures.

    A line that was being written when the machine died is passed over, and cut off before the next line is added.

    Args:
        path: of the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = JsonLines(path, _wrong_in_entry)

    def entries(self) -> list[dict[str, Any]]:
        """All finished steps, oldest first.

        Raises:
            RunDirectoryError: a line is damaged; the message names it.
        """
        with _damage_in_words():
            return self._lines.read()

    def append(self, step: Step, stage: str, **figures: Any) -> None:
        """Record that a step of a stage (`start`, `iteration-0`, ...) finished.

        Raises:
            OSError: the disk is full. What stood in the journal stays readable.
            RunDirectoryError: a line is damaged; the message names it.
        """
        with _damage_in_words():
            self._lines.append({"phase": step, "stage": stage, "time": round(time.time(), 3), **figures})

    def find(self, step: Step, stage: str) -> Entry | None:
        """The newest record of a step of a stage, or None if it has not finished, or what it made was lost."""
        return newest(self.entries(), step, stage) or None


@contextlib.contextmanager
def _damage_in_words() -> Iterator[None]:
    try:
        yield
    except DamagedLineError as error:
        raise RunDirectoryError(
            f"{error}. The journal says what the run has finished, so nothing goes on by a damaged one. Restore it from a "
            f"backup, or delete line {error.number} and all that follow: what they record is then played again."
        ) from error


def _wrong_in_entry(entry: Entry) -> str | None:
    """What an entry must have and has not, or None."""
    if missing := {"phase", "stage"} - entry.keys():
        return f"`{min(missing)}` is missing"
    for name, kind in {"phase": str, "stage": str, CHECKSUMS: dict, **_SHAPES.get(str(entry["phase"]), {})}.items():
        if name in entry and not isinstance(entry[name], kind):
            return f"`{name}` is {entry[name]!r}"
    if entry["phase"] in MADE or is_of(entry, Step.DIVERGED):
        try:
            Stage(entry["stage"])
        except ValueError as error:
            return f"`stage`: {error}"
    wrong = next((name for name, known in entry.get(CHECKSUMS, {}).items() if not _is_checksum(name, known)), None)
    return None if wrong is None else f"`{CHECKSUMS}` has {wrong!r}: {entry[CHECKSUMS][wrong]!r}"


def _is_checksum(name: str, known: Any) -> bool:
    """Whether it is the checksum of a file of the run: damaged ones are removed, so none may lie outside the directory."""
    path = PurePosixPath(name)
    return (
        not path.is_absolute()
        and ".." not in path.parts
        and isinstance(known, list)
        and [type(part) for part in known] == [int, str]
    )


def is_of(entry: Entry, step: Step, stage: str | None = None) -> bool:
    """Whether an entry records this step, and of this stage where one is asked for."""
    return entry["phase"] == step and stage in (None, entry["stage"])


def newest(entries: Sequence[Entry], step: Step, stage: str | None = None) -> Entry:
    """The last entry that records this step, and of this stage where one is asked for.

    Returns:
        The entry; empty if there is none, or if what the step made was lost since.
    """
    for entry in reversed(entries):
        if is_of(entry, step, stage):
            return entry
        if is_of(entry, Step.LOST, stage) and entry["lost"] == step:
            return {}
    return {}


def lowered(entries: Sequence[Entry], stage: str) -> list[Entry]:
    """The decisions to go back within the training of a stage that is going on, or was the last; oldest first."""
    found: list[Entry] = []
    for entry in entries:
        if is_of(entry, Step.LOWER, stage):
            found.append(entry)
        elif is_of(entry, Step.LOST, stage) and entry["lost"] == Step.TRAIN:
            found = []  # it is trained again as it was the first time
    return found


def diverged(entries: Sequence[Entry]) -> Entry:
    """The entry on training that has diverged and stopped; empty if the run has gone on since, or never stopped so."""
    for entry in reversed(entries):
        if is_of(entry, Step.DIVERGED):
            return entry
        if entry["phase"] in MADE or is_of(entry, Step.LOWER):
            break
    return {}


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
