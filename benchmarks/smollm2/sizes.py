"""Sizes of the experiment, and the parts that each consists of, in the order in which they are played."""

from __future__ import annotations

import argparse
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BASE, START = "base", "sft"
CONTINUED: Mapping[str, str] = {"sft-continued": "nll", "sft-dft": "dft"}
"""Arms that train the start further with SFT, up to self-play's compute, with the loss of each in TRL."""

OBJECTIVES: Mapping[str, str] = {"spin": "sigmoid"}
"""Names of arms that have another name in TRL."""

BUDGET = "spin"
"""Arm of self-play whose compute SFT continued gets, with the same seed and learning rate if it has been played."""


@dataclass(frozen=True)
class Part:
    """One part of the work.

    Attributes:
        arm: `base`, `sft`, an arm of [`CONTINUED`], or an objective.
        seed: seed of the order of rows and of sampling.
        learning_rate: learning rate as given; empty for the base and the start, which have one of their own.
    """

    arm: str
    seed: int = 0
    learning_rate: str = ""

    @classmethod
    def parse(cls, name: str) -> Part:
        """Parse `ARM/SEED/LEARNING_RATE`.

        Raises:
            argparse.ArgumentTypeError: if it is not of this form.
        """
        arm, *rest = name.split("/")
        wanted = 0 if arm == BASE else 1 if arm == START else 2
        if len(rest) != wanted:
            form = "/".join(["ARM", "SEED", "LEARNING_RATE"][: wanted + 1])
            raise argparse.ArgumentTypeError(f"{name!r} is not {form}")
        try:
            float(rest[1] if wanted == 2 else 1)
            return cls(arm, int(rest[0] if rest else 0), rest[1] if wanted == 2 else "")
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{name!r}: {error}") from error

    @property
    def name(self) -> str:
        """The name, as given."""
        return "/".join(
            part for part in (self.arm, "" if self.arm == BASE else str(self.seed), self.learning_rate) if part
        )

    @property
    def is_self_play(self) -> bool:
        """Whether the arm plays against its opponent."""
        return self.arm not in (BASE, START, *CONTINUED)


@dataclass(frozen=True)
class Size:
    """How much is trained and measured.

    Attributes:
        name: `tiny`, `pilot` or `full`.
        rows: training problems; None for all.
        development: minimum number of development problems.
        test: test problems that are answered greedily.
        scored: test problems on which the probability of the reference is measured, the first ones.
        retention: rows of each task of retention.
        start_epochs: maximum epochs of SFT for the start.
        iterations: iterations of self-play, of one epoch each.
        measures_each: whether every iteration is measured, or only the last.
        arms: arms after the start, in order of importance.
        learning_rates: learning rates of these arms with seed 0; other seeds get the best of them on development problems.
        seeds: number of seeds.
    """

    name: str
    rows: int | None
    development: int
    test: int
    scored: int
    retention: int
    start_epochs: int
    iterations: int
    measures_each: bool
    arms: tuple[str, ...]
    learning_rates: tuple[str, ...]
    seeds: int = 1


SIZES: Mapping[str, Size] = {
    size.name: size
    for size in (
        Size("tiny", 16, 8, 8, 4, 4, 1, 1, True, ("spin", "space", "sft-continued"), ("1e-5",)),
        Size("pilot", 300, 100, 1000, 500, 100, 3, 2, False, ("spin", "space", "sft-continued"), ("1e-5",)),
        Size(
            "full", None, 220, 1000, 1000, 100, 3, 3, True,
            ("spin", "sft-continued", "space", "iris", "sft-dft"), ("3e-6", "1e-5", "3e-5"), 3,
        ),
    )
}  # fmt: skip


def lines_of(lines: Iterable[Mapping[str, Any]], size: Size) -> list[Mapping[str, Any]]:
    """Return the lines of the results that were measured at a size."""
    return [line for line in lines if line.get("size") == size.name]


def is_done(lines: Iterable[Mapping[str, Any]], part: Part, size: Size) -> bool:
    """Return whether the results hold the last line of a part."""
    return any(line["part"] == part.name and line["last"] for line in lines_of(lines, size))


def chosen_rate(lines: Iterable[Mapping[str, Any]], arm: str, size: Size) -> str | None:
    """Return the learning rate with the best last point on development problems with seed 0; None if not all are played.

    That is the highest greedy accuracy, or of equal ones the lowest NLL.
    """
    found = {
        line["learning_rate"]: (line["development"]["accuracy"], -line["development"]["nll"])
        for line in lines_of(lines, size)
        if line["arm"] == arm and line["seed"] == 0 and line["last"]
    }
    if not set(size.learning_rates) <= found.keys():
        return None
    return max(((*found[rate], rate) for rate in size.learning_rates), key=operator.itemgetter(0, 1))[2]


def parts_of(size: Size, lines: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Return the parts of a size, in the order in which they are played, as far as they are known.

    Learning rates of seeds other than 0 follow from the results of seed 0.
    """
    parts = [Part(START), *(Part(arm, 0, rate) for arm in size.arms for rate in size.learning_rates), Part(BASE)]
    for seed in range(1, size.seeds):
        rates = {arm: chosen_rate(lines, arm, size) for arm in size.arms}
        parts += [Part(START, seed)] + [Part(arm, seed, rate) for arm, rate in rates.items() if rate is not None]
    return parts


def budget_of(lines: Iterable[Mapping[str, Any]], part: Part, size: Size) -> float | None:
    """Return the compute that an arm of SFT continued gets; None if self-play has not been played with its seed.

    It is the compute of [`BUDGET`]'s iterations together, with the same learning rate if there are several.
    """
    found = {
        line["learning_rate"]: float(line["compute"]["total"])
        for line in lines_of(lines, size)
        if line["arm"] == BUDGET and line["seed"] == part.seed and line["last"]
    }
    return found.get(part.learning_rate, max(found.values())) if found else None
