"""A file of a finished or a half-way killed run is damaged, and the same command resumes the run.

It ends with the results of the undisturbed run, or with a clear error and nothing lost.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from .acts import Ended, forked
from .outcome import Outcome, Results, Verdict, differences, in_words, lost, manners, results_of, says_the_same
from .runs import Undisturbed, go_on
from .trials import Trial, chooser
from .writes import CACHE, RUN_DIR, kind_of

PART: Final = "damage"

FINISHED: Final = "finished"
HALF_WAY: Final = {
    "answering": f"{RUN_DIR}/iteration-1/generations/shard-00001.parquet",
    "training": f"{RUN_DIR}/iteration-1/train/checkpoint-2/checkpoint.json",
}
"""States of a run that was killed half-way, by the file that had not yet been renamed into place."""

_JOURNAL: Final = f"{RUN_DIR}/journal.jsonl"

READING: Final = (("report", RUN_DIR), ("plan", RUN_DIR))
"""Commands that read a run directory."""

_OTHER_SHAPES: Final = (None, [], {}, "text", 3, [[1]], {"a": {"b": [None]}})


@dataclass(frozen=True)
class State:
    """A run directory to damage.

    Attributes:
        name: how far the run had come.
        folder: folder with the run directory and the cache.
        run: results that it would have ended with.
        other: folder of a run of the same kind on other data.
    """

    name: str
    folder: Path
    run: Undisturbed
    other: Path


Harm = Callable[[bytes, random.Random, State, str], bytes | None]
"""New content of a file, given by its path; None if it is deleted."""


def _cut(content: bytes, chosen: random.Random, state: State, path: str) -> bytes:
    return content[: chosen.randint(1, max(len(content) - 1, 1))]


def _emptied(content: bytes, chosen: random.Random, state: State, path: str) -> bytes:
    return b""


def _deleted(content: bytes, chosen: random.Random, state: State, path: str) -> None:
    return None


def _flipped(content: bytes, chosen: random.Random, state: State, path: str) -> bytes:
    place = chosen.randrange(len(content)) if content else 0
    return (
        content[:place] + bytes([content[place] ^ 1 << chosen.randrange(8)]) + content[place + 1 :] if content else b""
    )


def _zeros(content: bytes, chosen: random.Random, state: State, path: str) -> bytes:
    """Return what a power failure may leave: a file of the right length, with zeros at the end."""
    place = chosen.randrange(len(content)) if content else 0
    return content[:place] + bytes(len(content) - place)


def _another_runs(content: bytes, chosen: random.Random, state: State, path: str) -> bytes:
    """Return the other run's file at the same path, or of the same kind."""
    same = state.other / path
    if not same.is_file():
        alike = [name for name in files_of(state.other) if kind_of(name) == kind_of(path)]
        alike = [name for name in alike if Path(name).suffix == Path(path).suffix]
        if not alike:
            return content
        same = state.other / chosen.choice(alike)
    return same.read_bytes()


def _another_shape(content: bytes, chosen: random.Random, state: State, path: str) -> bytes:
    """Return valid JSON of another shape: another value, or every value of another type."""
    suffix = Path(path).suffix
    if suffix not in (".json", ".jsonl", ".yaml"):
        return content
    lines = content.splitlines() if suffix == ".jsonl" else [content]
    number = chosen.randrange(len(lines))
    found = yaml.safe_load(content) if suffix == ".yaml" else json.loads(lines[number])
    shapes: list[Any] = [*_OTHER_SHAPES]
    if isinstance(found, dict) and found:
        name = chosen.choice(sorted(found))
        shapes += [
            {key: [value] for key, value in found.items()},
            {**found, name: None},
            {**found, name: {"a": 1}},
        ] * 2
        shapes.append({key: value for key, value in found.items() if key != name})
    lines[number] = json.dumps(chosen.choice(shapes)).encode()
    return b"\n".join(lines) + b"\n"


HARMS: Final[dict[str, Harm]] = {
    "cut": _cut,
    "emptied": _emptied,
    "deleted": _deleted,
    "one bit flipped": _flipped,
    "ends in NUL bytes": _zeros,
    "another run's": _another_runs,
    "of another shape": _another_shape,
}


def files_of(folder: Path) -> list[str]:
    """Return the files of a run directory and of its cache, by their paths in the folder of a trial."""
    every = (path for place in (RUN_DIR, CACHE) for path in (folder / place).rglob("*"))
    return sorted(path.relative_to(folder).as_posix() for path in every if path.is_file() or path.is_symlink())


def trials(seed: int, states: Sequence[State]) -> list[Trial]:
    """Return every kind of file, harmed in every way, of a finished run and of one that was killed half-way."""
    kinds = sorted({kind for state in states for path in files_of(state.folder) if (kind := kind_of(path))})
    found = []
    for way in HARMS:
        for kind in kinds:
            for is_finished in (True, False):
                chosen = chooser(seed, PART, way, kind, is_finished)
                those = [state for state in states if (state.name == FINISHED) == is_finished]
                trial = _trial_of(chosen, those, kind, way)
                if trial is not None:
                    found.append(trial)
    chooser(seed, PART).shuffle(found)
    return found


def _trial_of(chosen: random.Random, states: Sequence[State], kind: str, way: str) -> Trial | None:
    """Return harm to a file of a kind, or None if no run has one that can be harmed this way."""
    for state in chosen.sample(states, len(states)):
        paths = [path for path in files_of(state.folder) if kind_of(path) == kind]
        for path in chosen.sample(paths, len(paths)):
            harmed = _harmed(chosen, state, path, way)
            if harmed is not None:
                return Trial(PART, f"{state.run.task.name}, {state.name}: {path} {way}", _check(state, path, *harmed))
    return None


def _harmed(chosen: random.Random, state: State, path: str, way: str) -> tuple[bytes | None] | None:
    """Return a file's content after it was harmed, in a tuple of one; None if that changes nothing."""
    file = state.folder / path
    if file.is_symlink():
        return (None,) if way == "deleted" else None
    content = file.read_bytes()
    try:
        harmed = HARMS[way](content, chosen, state, path)
    except ValueError:  # it was not JSON to begin with
        return None
    return None if harmed == content else (harmed,)


def _check(state: State, path: str, harmed: bytes | None) -> Callable[[Path], Outcome]:
    def check(folder: Path) -> Outcome:
        shutil.copytree(state.folder, folder, symlinks=True)
        if harmed is None:
            (folder / path).unlink()
        else:
            (folder / path).write_bytes(harmed)
        before, journal = results_of(folder), _journal(folder)
        for command in READING if state.name == FINISHED else ():
            wrong = manners(forked(folder, command))
            if wrong is not None:
                return Outcome(Verdict.TRACEBACK, f"{command[0]}: {wrong}")
        ended = go_on(folder)
        wrong = manners(ended)
        if wrong is not None:
            return Outcome(Verdict.TRACEBACK, f"run: {wrong}")
        return _ended_well(folder, path, state.run, before, journal, ended)

    return check


def _ended_well(folder: Path, path: str, run: Undisturbed, before: Results, journal: bytes, ended: Ended) -> Outcome:
    """Return the verdict on a command that resumed a damaged run, and ended without a traceback."""
    after, expected = results_of(folder), run.results
    if ended.code == 0:
        other = differences(after, expected)
        if other == [_JOURNAL] and says_the_same(folder / _JOURNAL, run.folder / _JOURNAL):
            other = []  # the journal records what was damaged, and that it was rebuilt
        if other == [path]:
            return Outcome(Verdict.SILENT, "nobody has noticed, and it stays so")
        return Outcome(Verdict.SILENT, in_words(other, folder)) if other else Outcome(Verdict.SAME)
    gone = lost(before, after, expected)
    if not _journal(folder).startswith(journal[: journal.rfind(b"\n") + 1]):
        gone.append(_JOURNAL)
    said = next((line for line in ended.output.splitlines() if line.startswith("spin-trl")), "")
    return Outcome(Verdict.LOST, f"{', '.join(gone[:4])}, and then: {said}") if gone else Outcome(Verdict.ERROR, said)


def _journal(folder: Path) -> bytes:
    file = folder / _JOURNAL
    return file.read_bytes() if os.path.isfile(file) else b""
