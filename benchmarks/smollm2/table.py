"""The table of the experiment: every model, and its differences from the start and from SFT continued, paired by problem."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .sizes import BASE, CONTINUED, START, Size, chosen_rate, lines_of

Z = 1.96
"""Half the width of a 95 % interval, in standard errors."""

MORE_SFT = "sft-continued"

_HEAD = (
    "model", "LR", "point", "seeds", "greedy accuracy, %", "- start, points", f"- {MORE_SFT}, points",
    "without known bodies, %", "probability of the reference, %", "development accuracy, %", "NLL of GSM8K", "NLL of MBPP",
    "identical pairs, %", "compute, M",
)  # fmt: skip


def table_of(lines: Iterable[Mapping[str, Any]], size: Size) -> str:
    """Return a Markdown table of the lines of a size; figures are means over the seeds.

    A difference is the mean over the problems, each averaged over the seeds, with its 95 % interval; where this contains 0,
    the difference is called not resolved. Models are compared with the last point of SFT continued at its chosen
    learning rate.
    """
    lines = lines_of(lines, size)
    if not lines:
        return f"Nothing has been measured at the size {size.name!r} yet."
    groups: dict[tuple[str, str, str], dict[int, Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["arm"], str(line["learning_rate"]), str(line["point"])), {})[line["seed"]] = line
    starts = next((found for (arm, _, _), found in groups.items() if arm == START), {})
    rate = chosen_rate(lines, MORE_SFT, size)
    more = next(
        (found for (arm, used, point), found in groups.items() if (arm, used, point) == (MORE_SFT, rate, "last")), {}
    )
    order = {arm: number for number, arm in enumerate((BASE, START, *size.arms))}
    rows = [_HEAD, ("---",) * len(_HEAD)]
    for key in sorted(groups, key=lambda key: (order.get(key[0], len(order)), key)):
        arm, used, point = key
        name = f"{arm} *" if arm in size.arms and used == chosen_rate(lines, arm, size) else arm
        own = groups[key]
        rows.append((name, used, point, str(len(own)), *_figures(own, arm, starts, more)))
    count = len(next(iter(lines))["test"]["correct"])
    told = [
        f"Greedy accuracy on {count:,} test problems, paired by problem, ± 95 % interval of the problems (not of the "
        "seeds). A difference whose interval contains 0 is not resolved.",
    ]
    if len(size.learning_rates) > 1:
        told.append("* learning rate chosen on the development problems with seed 0.")
    return "\n".join([*("| " + " | ".join(row) + " |" for row in rows), "", *told])


def difference(ones: Sequence[str], others: Sequence[str]) -> tuple[float, float]:
    """Return the mean difference of results by problem, in points, and half its 95 % interval.

    Args:
        ones: results by problem of a model's seeds, each a string of `1` and `0`.
        others: results of the model it is compared with, with the same seeds.
    """
    by_problem = [
        100 * statistics.fmean(int(mine) - int(theirs) for mine, theirs in zip(of_ones, of_others, strict=True))
        for of_ones, of_others in zip(zip(*ones, strict=True), zip(*others, strict=True), strict=True)
    ]
    return statistics.fmean(by_problem), Z * statistics.stdev(by_problem) / math.sqrt(len(by_problem))


def _figures(
    own: Mapping[int, Mapping[str, Any]],
    arm: str,
    starts: Mapping[int, Mapping[str, Any]],
    more: Mapping[int, Mapping[str, Any]],
) -> list[str]:
    def mean(*path: str, scale: float = 1, digits: int = 1) -> str:
        found = []
        for line in own.values():
            value: Any = line
            for name in path:
                value = value.get(name) if isinstance(value, Mapping) else None
            if value is not None:
                found.append(scale * value)
        return f"{statistics.fmean(found):.{digits}f}" if found else ""

    return [
        mean("test", "accuracy"),
        "" if arm in (BASE, START) else _compared(own, starts),
        "" if arm in (BASE, START, *CONTINUED) else _compared(own, more),
        mean("test", "accuracy_new_bodies"),
        mean("test", "probability"),
        mean("development", "accuracy"),
        mean("gsm8k_nll", digits=3),
        mean("mbpp_nll", digits=3),
        mean("identical_pairs", scale=100),
        mean("compute", "total", scale=1e-6, digits=2),
    ]


def _compared(own: Mapping[int, Mapping[str, Any]], others: Mapping[int, Mapping[str, Any]]) -> str:
    """Return the difference on the seeds that both have, or nothing if they have none together."""
    seeds = sorted(own.keys() & others.keys())
    if not seeds:
        return ""
    mean, half = difference(*([found[seed]["test"]["correct"] for seed in seeds] for found in (own, others)))
    return f"{mean:+.1f} ± {half:.1f}" + (" (not resolved)" if abs(mean) <= half else "")
