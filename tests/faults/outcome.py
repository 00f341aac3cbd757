"""The results of a run, and the verdict on a trial: the same bytes, a clear error, or one of three faults."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from spin_trl.generation.store import SHARD_CHECKSUMS
from spin_trl.run.contents import TRACEBACK
from spin_trl.run.journal import CHECKSUMS

from .acts import Ended
from .writes import RUN_DIR

Results = dict[str, str]
"""Digests of a run's results, by paths in its folder."""

_RESULTS: Final = re.compile(
    rf"{RUN_DIR}/(?:best\.json|(?:.+/)?model/(?!README\.md).+|start/tokenizer/.+|.+\.parquet|.+/generations\.json"
    r"|(?:.+/)?(?:metrics|histograms|values|logps)\.json|(?:.+/)?samples\.jsonl)"
)
_UNFINISHED: Final = re.compile(r"(?:.*/)?\.[^/]+\.tmp(?:/.*)?|.*/train/.*")
_JOURNAL: Final = f"{RUN_DIR}/journal.jsonl"
_VOLATILE: Final = frozenset({"time", "seconds", "work_seconds", "versions", "crc32"})


UNEXPECTED: Final = "Unexpected error, "
"""Part of the message of an error that the command does not know, whose traceback is also kept somewhere."""

_EXCEPTION: Final = re.compile(r"[\w.]*(?:Error|Exception|Interrupt|Invalid)\w*")


class Verdict(StrEnum):
    """The outcome of a trial."""

    SAME = "same bytes"
    ERROR = "clear errors"
    TRACEBACK = "tracebacks"
    SILENT = "silent differences"
    LOST = "bytes lost"


FAULTS: Final = (Verdict.TRACEBACK, Verdict.SILENT, Verdict.LOST)
"""Verdicts that no trial may have."""


@dataclass(frozen=True)
class Outcome:
    """A verdict, with its details."""

    verdict: Verdict
    detail: str = ""


@dataclass
class Table:
    """Verdicts of all trials, by part."""

    counts: dict[str, Counter[Verdict]] = field(default_factory=dict)

    def add(self, part: str, outcome: Outcome) -> None:
        """Count a trial of a part."""
        self.counts.setdefault(part, Counter())[outcome.verdict] += 1

    @property
    def faults(self) -> int:
        """Number of trials that have shown a fault."""
        return sum(counts[fault] for counts in self.counts.values() for fault in FAULTS)

    def __str__(self) -> str:
        columns = ["tried", *Verdict]
        rows = [("", *columns)]
        every: Counter[Verdict] = Counter()
        for part, counts in self.counts.items():
            rows.append((part, str(counts.total()), *(str(counts[verdict]) for verdict in Verdict)))
            every += counts
        rows.append(("in all", str(every.total()), *(str(every[verdict]) for verdict in Verdict)))
        widths = [max(len(row[index]) for row in rows) for index in range(len(columns) + 1)]
        lines = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
        return "\n".join("  ".join(line) for line in lines)


def results_of(folder: Path) -> Results:
    """Return the results of the run in a folder: weights, generations, figures, and decisions."""
    found = {path: _digest(folder / path) for path in sorted(_files(folder)) if _is_result(path)}
    best = folder / RUN_DIR / "best"
    if best.is_symlink():
        found[f"{RUN_DIR}/best"] = os.readlink(best)
    found[_JOURNAL] = _what_the_journal_says(folder / _JOURNAL)
    return found


def differences(results: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Return paths of files that differ, are missing, or are there although they should not be."""
    return sorted(path for path in {*results, *expected} if results.get(path) != expected.get(path))


def says_the_same(journal: Path, other: Path) -> bool:
    """Return whether two journals record the same of every step, however often a damaged one was played again."""
    return _newest_of(journal) == _newest_of(other)


def _newest_of(journal: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in journal.read_bytes().splitlines():
        entry = json.loads(line)
        if entry["phase"] != "lost":
            kept = _lasting(entry)
            # When a shard is generated again, a line is added to the list of shards, so the list differs.
            kept[CHECKSUMS] = {
                name: value for name, value in kept.get(CHECKSUMS, {}).items() if Path(name).name != SHARD_CHECKSUMS
            }
            found[f"{entry['phase']} of {entry['stage']}"] = kept
    return found


def in_words(paths: Iterable[str], folder: Path) -> str:
    """Describe the first of some paths that differ, and whether they exist."""
    listed = sorted(paths)
    shown = [path if (folder / path).exists() else f"{path} (missing)" for path in listed[:4]]
    return ", ".join(shown) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def manners(ended: Ended, codes: Iterable[int] = (0, 1, 2)) -> str | None:
    """Return what is wrong with how a command ended, or None: a traceback, a crash, or an error without its message.

    Args:
        ended: how it ended.
        codes: exit codes that are right.
    """
    if ended.hung:
        return "it did not end"
    if "Traceback (most recent call last)" in ended.output:
        return _last_lines(ended.output)
    unforeseen = next((line for line in ended.output.splitlines() if UNEXPECTED in line), None)
    if unforeseen is not None:  # its traceback is in a file
        return unforeseen[:600]
    if ended.code not in codes:
        return f"exit code {ended.code}: {_last_lines(ended.output)}"
    if ended.code > 0 and message(ended) is None:
        return f"exit code {ended.code} without a message: {_last_lines(ended.output)}"
    return None


def message(ended: Ended) -> str | None:
    """Return the message of a command that failed."""
    return next((line for line in reversed(ended.output.splitlines()) if re.match(r"spin-trl(?: \(|:)", line)), None)


def with_traceback(folder: Path, outcome: Outcome) -> Outcome:
    """Return an outcome, or a fault if a command of its trial left a traceback in the run directory, printed or not."""
    kept = folder / RUN_DIR / TRACEBACK
    if outcome.verdict is Verdict.TRACEBACK or not kept.is_file():
        return outcome
    return Outcome(
        Verdict.TRACEBACK, f"{TRACEBACK}: {_last_lines(kept.read_text(encoding='utf-8', errors='replace'))}"
    )


def of_going_on(folder: Path, ended: Ended, expected: Results) -> Outcome:
    """Return the verdict on an interrupted run, which has to reach the results of the undisturbed one."""
    wrong = manners(ended)
    if wrong is not None:
        return Outcome(Verdict.TRACEBACK, f"going on: {wrong}")
    if ended.code != 0:
        return Outcome(Verdict.LOST, f"it can't be resumed: {message(ended)}")
    other = differences(results_of(folder), expected)
    return Outcome(Verdict.SILENT, in_words(other, folder)) if other else Outcome(Verdict.SAME)


def lost(before: Mapping[str, str], after: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Return paths of results that were right, and no longer are."""
    return sorted(path for path, right in expected.items() if before.get(path) == right and after.get(path) != right)


def _is_result(path: str) -> bool:
    return _RESULTS.fullmatch(path) is not None and _UNFINISHED.fullmatch(path) is None


def _files(folder: Path) -> list[str]:
    return [
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
    ]


def _digest(file: Path) -> str:
    content = file.read_bytes()
    if file.name == "adapter_config.json":  # PEFT writes sets, whose order differs between processes
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            found = json.loads(content)
            in_order = {name: sorted(value) if isinstance(value, list) else value for name, value in found.items()}
            content = json.dumps(in_order, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def _what_the_journal_says(journal: Path) -> str:
    """Return its entries without times; lines that can't be read are returned unchanged."""
    if not journal.is_file():
        return "missing"
    entries: list[Any] = []
    for line in journal.read_bytes().splitlines():
        try:
            entries.append(_lasting(json.loads(line)))
        except (ValueError, AttributeError):
            entries.append(repr(line))
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _lasting(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry without times, and without the checksum of an adapter's configuration, which is compared
    separately.

    PEFT writes sets in the configuration, whose order differs between processes ([`_digest`]).
    """
    kept = {name: value for name, value in entry.items() if name not in _VOLATILE}
    if CHECKSUMS in kept:
        kept[CHECKSUMS] = {
            name: value for name, value in kept[CHECKSUMS].items() if Path(name).name != "adapter_config.json"
        }
    return kept


def _last_lines(output: str) -> str:
    """Return the end of a command's output: the exception, and the frame of this package that raised it."""
    lines = output.rstrip().splitlines() or ["nothing printed"]
    frames = [
        f"{file}:{line}" for file, line in re.findall(r'File ".*/(spin_trl/(?!tests/)[^"]+)", line (\d+)', output)
    ]
    last = next((number for number in reversed(range(len(lines))) if _EXCEPTION.match(lines[number])), len(lines) - 1)
    return " at ".join([" ".join(lines[last : last + 2])[:300], *([" <- ".join(frames[-2:][::-1])] if frames else [])])
