"""The record of a run: one JSON line per finished step, flushed to disk before the next step starts."""

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
from .entry_values import wrong_value
from .stage import BEST_SFT, Stage

Entry = Mapping[str, Any]
"""A line of the journal: `phase`, a [`Step`]; `stage`, usually a [`Stage`]; `time`; and the step's own values."""

TEST, RETENTION = MEASURED_SETS = "test", "retention"
"""Sets of prompts that models are only measured on: the test set, and the retention set. The names of their prepared rows'
folders, of the folders of their results in a stage, and of the entries on their data."""

PAIRS = "dpo"
"""Name of the entry on the preference pairs for DPO on top, and of the folder of these pairs in `data`."""

DATA, HUB = "data", "hub"
"""Stage names of entries that do not concern a model: those on the run's data, and those on information from the Hub."""


class Step(StrEnum):
    """The steps of a run: every value that `phase` may have in a journal entry."""

    GIVEN = "given"
    """θ_0, passed as an object, was saved."""
    PREPARE = "prepare"
    """The dataset was turned into rows."""
    TRAIN = "train"
    """A stage's model was trained, or for the start, built."""
    GENERATE = "generate"
    """An iteration's opponent answered the training prompts."""
    EVALUATE = "evaluate"
    """A stage's model was measured on the held-out prompts."""
    RETENTION = "retention"
    """A stage's model was measured on the retention set."""
    TEST = "test"
    """A stage's model was measured on the test set, at the end of the run."""
    LOWER = "lower"
    """Training diverged and went back to a step (`back_to`) with a lower learning rate (`on_nan: lower`)."""
    DIVERGED = "diverged"
    """Training diverged (`at_step`, `rows`) for a `reason`, with this `on_nan`, and stopped: the run, or a baseline arm."""
    GATE = "gate"
    """The gate decided how the run continues after an iteration."""
    REVIEW = "review"
    """A reviewer compared answers of a stage's model with others (`votes`)."""
    TRACK = "track"
    """An iteration's figures, or those on the test set, were sent to the trackers."""
    BENCHMARK = "lm-eval"
    """A stage's model was benchmarked on request."""
    LICENSES = "licenses"
    """The licences of the run's model and data were looked up on the Hub."""
    PUSH = "push"
    """Something was pushed to the Hub."""
    LOST = "lost"
    """The files of a stage's step (`lost`) are missing or damaged, so the step is played again."""


MADE = frozenset({Step.GENERATE, Step.TRAIN, Step.EVALUATE, Step.RETENTION, Step.TEST})
"""Steps that produce a run's results and account for its time. The others are decisions and reports."""

OF_THE_HUB = frozenset({Step.PUSH, Step.LICENSES})


CHECKSUMS = "files"
"""Key of an entry's files, as written by its step: `{name in the run directory: [bytes, SHA-256]}`."""

JUDGED = "judge"
"""Key of an evaluation's entry: the judge's model, host and rubric, what it has cost, and what is known of its faults."""

ISOLATION = "isolation"
"""Key of an evaluation's entry: the layers that generated code ran behind, if a scorer ran any."""

_NEEDED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        Step.GIVEN: ("digest",),
        Step.PREPARE: ("dataset",),
        Step.LOST: ("lost",),
        Step.LOWER: ("back_to", "lr_scale"),
        Step.REVIEW: ("reviewer", "votes"),
    }
)
"""Values of a step's entry, besides `phase` and `stage`, that have no default."""


WORSE = "worse"
"""The gate's decision on DPO's result that is worse than the model it started from: it is not delivered."""

UNTRAINED = "not trained"
"""The gate's decision on an iteration whose generations leave nothing to learn: the run ends before it is trained."""


class Journal:
    """Append-only record of finished steps with their figures.

    A line left incomplete by a crash is ignored, and removed before the next line is appended.

    Args:
        path: path of the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = JsonLines(path, _wrong_in_entry)

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries of all finished steps, oldest first.

        Raises:
            RunDirectoryError: if a line is damaged; the message names it.
        """
        with _damage_in_words():
            return self._lines.read()

    def append(self, step: Step, stage: str, **figures: Any) -> None:
        """Record that a step of a stage (`start`, `iteration-0`, ...) finished.

        Raises:
            OSError: if the disk is full. The earlier entries stay readable.
            RunDirectoryError: if a line is damaged; the message names it.
        """
        with _damage_in_words():
            self._lines.append({"phase": step, "stage": stage, "time": round(time.time(), 3), **figures})

    def find(self, step: Step, stage: str) -> Entry | None:
        """Return the newest entry of a stage's step, or None if the step has not finished or its files were lost."""
        return newest(self.entries(), step, stage) or None


@contextlib.contextmanager
def _damage_in_words() -> Iterator[None]:
    try:
        yield
    except DamagedLineError as error:
        raise RunDirectoryError(
            f"{error}. The journal records the finished steps, so the run can't continue with a damaged one. Restore it "
            f"from a backup, or delete line {error.number} and all lines after it to play those steps again."
        ) from error


def _wrong_in_entry(entry: Entry) -> str | None:
    """Return what is missing or wrong in an entry, or None."""
    step = str(entry.get("phase"))
    if missing := {"phase", "stage", *_NEEDED.get(step, ())} - entry.keys():
        return f"`{min(missing)}` is missing"
    if (name := wrong_value(entry)) is not None:
        return f"`{name}` is {entry[name]!r}"
    if entry["phase"] in MADE or is_of(entry, Step.DIVERGED):
        try:
            Stage(entry["stage"])
        except ValueError as error:
            return f"`stage`: {error}"
    wrong = next((name for name, known in entry.get(CHECKSUMS, {}).items() if not _is_checksum(name, known)), None)
    return None if wrong is None else f"`{CHECKSUMS}` has {wrong!r}: {entry[CHECKSUMS][wrong]!r}"


def _is_checksum(name: str, known: Any) -> bool:
    """Return whether this is a valid checksum of a file inside the run directory, since damaged files are removed."""
    path = PurePosixPath(name)
    return (
        not path.is_absolute()
        and ".." not in path.parts
        and isinstance(known, list)
        and [type(part) for part in known] == [int, str]
    )


def is_of(entry: Entry, step: Step, stage: str | None = None) -> bool:
    """Return whether an entry records this step, for this stage if one is given."""
    return entry["phase"] == step and stage in (None, entry["stage"])


def newest(entries: Sequence[Entry], step: Step, stage: str | None = None) -> Entry:
    """Return the last entry that records this step, for this stage if one is given.

    Returns:
        The entry; empty if there is none, or if the step's files have since been lost.
    """
    for entry in reversed(entries):
        if is_of(entry, step, stage):
            return entry
        if is_of(entry, Step.LOST, stage) and entry["lost"] == step:
            return {}
    return {}


def lowered(entries: Sequence[Entry], stage: str) -> list[Entry]:
    """Return the decisions to go back within the current or latest training of a stage, oldest first."""
    found: list[Entry] = []
    for entry in entries:
        if is_of(entry, Step.LOWER, stage):
            found.append(entry)
        elif is_of(entry, Step.LOST, stage) and entry["lost"] == Step.TRAIN:
            found = []  # it is trained again from scratch, with the original learning rate
    return found


def diverged(entries: Sequence[Entry]) -> Entry:
    """Return the entry on diverged training that stopped the run; empty if there is none, or the run has continued since.

    A baseline arm that diverges does not stop the run ([`ends_of_arms`]).
    """
    for entry in reversed(entries):
        if is_of(entry, Step.DIVERGED) and not Stage(entry["stage"]).is_of_baseline:
            return entry
        if entry["phase"] in MADE or is_of(entry, Step.LOWER):
            break
    return {}


def ends_of_arms(entries: Sequence[Entry]) -> dict[Stage, Entry]:
    """Return the entries on diverged training that ended a baseline arm, by stage, without stages trained again since."""
    found: dict[Stage, Entry] = {}
    for entry in entries:
        if is_of(entry, Step.DIVERGED) and (stage := Stage(entry["stage"])).is_of_baseline:
            found[stage] = entry
        elif entry["phase"] in (Step.TRAIN, Step.LOWER) or entry.get("lost") == Step.TRAIN:
            found.pop(entry["stage"], None)
    return found


def end_of_arm(entries: Sequence[Entry], stage: Stage) -> Entry:
    """Return the entry on diverged training that ended a baseline arm at a stage or before it; empty if there is none.

    Stages of [`BEST_SFT`] do not continue each other, so only the stage itself counts.
    """
    for ended, entry in ends_of_arms(entries).items():
        if ended == stage or (ended.arm == stage.arm != BEST_SFT and ended.iteration < stage.iteration):
            return entry
    return {}


class Decisions:
    """The gate's decisions after the iterations of a run, which determine the model that each iteration starts from.

    Args:
        entries: entries of the journal.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._after = {entry["stage"]: entry for entry in entries if is_of(entry, Step.GATE)}

    def after(self, iteration: int) -> Entry:
        """Return the newest decision after an iteration (0-based); empty if there was none."""
        return self._after.get(Stage.of(iteration), {})

    def on(self, stage: str) -> Entry:
        """Return the newest decision on a stage; empty if there was none."""
        return self._after.get(stage, {})

    def opponent(self, iteration: int) -> Stage:
        """Return the stage whose model is θ_t: the previous iteration, unless the gate fell back to another stage."""
        return Stage(self.after(iteration - 1).get("opponent", Stage.of(iteration - 1)))

    def lr_scale(self, iteration: int) -> float:
        """Return the factor on an iteration's learning rate: 1 unless the gate fell back before it."""
        return self.after(iteration - 1).get("lr_scale", 1.0)

    def lineage(self, iteration: int) -> list[int]:
        """Return the iterations that led to θ_{t+1}, oldest first, without those that the gate discarded."""
        found = [iteration]
        while not (stage := self.opponent(found[0])).is_start:
            found.insert(0, stage.iteration)
        return found
