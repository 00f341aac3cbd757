"""Shows the outcomes of inputs as a table by kind and as a list of failures by cause."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .judge import Kind, Outcome
from .parts import Input

EXAMPLES = 5
"""Number of seeds that are named for each cause."""


@dataclass(frozen=True)
class Tried:
    """An input that was given to the command.

    Attributes:
        seed: seed that generates it.
        kind: kind of the input.
        given: the input.
        outcome: the command's outcome.
    """

    seed: int
    kind: str
    given: Input
    outcome: Outcome


def table(tried: Sequence[Tried]) -> str:
    """Return how many inputs of each kind were tried, and their outcomes."""
    counts = Counter((one.kind, one.outcome.kind) for one in tried)
    rows = [["", "tried", *Kind]]
    for kind in sorted({one.kind for one in tried}):
        found = [counts[kind, outcome] for outcome in Kind]
        rows.append([kind, f"{sum(found):,}", *(f"{count:,}" for count in found)])
    every = [sum(counts[kind, outcome] for kind in {one.kind for one in tried}) for outcome in Kind]
    rows.append(["all", f"{len(tried):,}", *(f"{count:,}" for count in every)])
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def add_line(path: Path, one: Tried) -> None:
    """Append an input and its messages to a file, for people to judge whether the messages are clear."""
    outcome = one.outcome
    line = {"seed": one.seed, "kind": one.kind, "given": one.given.what, "arguments": one.given.arguments}
    line |= {
        "outcome": outcome.kind,
        "code": outcome.code,
        "seconds": round(outcome.seconds, 1),
        "message": outcome.message,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def failures_by_cause(tried: Sequence[Tried]) -> str:
    """Return every cause of failures with the seeds that show it, the most frequent first."""
    groups: dict[tuple[Kind, str], list[Tried]] = defaultdict(list)
    for one in sorted(tried, key=lambda one: one.seed):
        if one.outcome.is_failure:
            groups[one.outcome.kind, one.outcome.cause].append(one)
    lines = []
    for (kind, cause), found in sorted(groups.items(), key=lambda group: (group[0][0], -len(group[1]))):
        simplest = min(found, key=lambda one: len(one.given.what))
        seeds = " ".join(str(one.seed) for one in found[:EXAMPLES]) + (" ..." if len(found) > EXAMPLES else "")
        lines += [
            f"{len(found)} {kind}: {cause}",
            f"    {simplest.outcome.message[:200]!a}",
            f"    {simplest.kind}: {simplest.given.what[:200]!a}",
            f"    --only {seeds}",
        ]
    return "".join(line + "\n" for line in lines)
