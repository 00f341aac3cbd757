"""What a comparison of objectives shows: one table, and one plot; means over seeds with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from ..evaluation.figures import FIGURES, Figure, figure_of, is_figure
from ..evaluation.intervals import mean_and_error, of_mean
from ..run.stage import Stage
from .drawing import Point, Series, lines_chart, write_picture
from .terminal_table import COLUMNS, difference_of, run_table

START_ARM = "start"

COSTS = (
    Figure("steps", "gradient steps", column="steps", digits=0, rank=5),
    Figure("seconds", "seconds", column="seconds", digits=0, rank=2),
    Figure("seeds", "seeds", column="seeds", digits=0, rank=5),
    Figure("generated_tokens", "tokens generated", column="tokens made", digits=0, rank=3),
)
"""What an arm took, beside its held-out figures."""

MORE_COLUMNS = (*(figure for figure in FIGURES.values() if figure.of_comparisons), *COSTS)

AGAINST = "_vs_baseline"
"""Ends the name of a figure's difference from the supervised arm at the same point, less than zero where that has more."""

Summary = dict[str, dict[int, dict[str, float]]]
"""Figures by arm and iteration; the start is an arm of its own, at iteration -1."""


@dataclass(frozen=True)
class ArmFigures:
    """What was measured of one arm at one iteration with one seed."""

    arm: str
    iteration: int
    seed: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class EarlyEnd:
    """Why an arm has not played all its iterations.

    Attributes:
        arm: its name.
        seed: of its run.
        stage: at which the run ended.
        reason: in words.
        step: of training, if that is where it ended.
        rows: of that step which are to blame, as far as they are known: key, iteration and sample of each pair.
    """

    arm: str
    seed: int
    stage: str
    reason: str
    step: int | None = None
    rows: Sequence[Sequence[Any]] = ()

    def __str__(self) -> str:
        label = Stage(self.stage).label
        return f"{self.arm}, seed {self.seed}: {'' if label in self.reason else f'{label}: '}{self.reason}"


def summarise_cells(cells: Sequence[ArmFigures], num_seeds: int) -> Summary:
    """Means over seeds, and their standard errors.

    Args:
        cells: what was measured.
        num_seeds: of the comparison.

    Returns:
        By arm and iteration, each figure's mean over the seeds, its standard error `NAME_se`, and `seeds`, how many there
        are. In a comparison with a single seed, the standard errors over held-out prompts stay; where only one of several
        seeds was measured, there is none.
    """
    grouped: dict[str, dict[int, list[Mapping[str, float]]]] = {}
    for cell in cells:
        grouped.setdefault(cell.arm, {}).setdefault(cell.iteration, []).append(cell.figures)
    return {
        arm: {iteration: _mean(found, num_seeds) for iteration, found in sorted(iterations.items())}
        for arm, iterations in grouped.items()
    }


def _mean(found: Sequence[Mapping[str, float]], num_seeds: int) -> dict[str, float]:
    if num_seeds == 1:
        return {**found[0], "seeds": 1.0}
    means: dict[str, float] = {"seeds": float(len(found))}
    for name in found[0]:
        values = [figures[name] for figures in found if name in figures]
        if not is_figure(name, found[0]) or len(values) < len(found):
            continue
        means[name], error = mean_and_error(values)
        if len(values) > 1:
            means[f"{name}_se"] = error
        if len(values) > 1 and name.endswith(AGAINST):
            means[f"{name}_low"], means[f"{name}_high"] = of_mean(values)
    return means


def comparison_table(
    summary: Summary, metric: str, num_seeds: int, width: int | None, baseline: str | None = None
) -> Table:
    """One row an arm and iteration.

    Args:
        summary: of [`summarise_cells`].
        metric: the recipe's, named above the table.
        num_seeds: that were played.
        width: columns of the terminal; None shows everything.
        baseline: name of the supervised arm that the others are held against, or None.
    """
    costs = {figure.name for figure in COSTS}
    rows = {
        (START_ARM if arm == START_ARM else f"{arm}/iteration-{iteration}"): {
            # Costs vary with the machine and not with the method: no error is drawn for them.
            name: value
            for name, value in figures.items()
            if name.removesuffix("_se") == name or name.removesuffix("_se") not in costs
        }
        for arm, iterations in summary.items()
        for iteration, figures in iterations.items()
    }
    difference = difference_of(metric, f"{metric}{AGAINST}", f"less {baseline} [95 %]")
    over = f"over {num_seeds} seeds" if num_seeds > 1 else "over the held-out prompts, of one seed"
    return run_table(
        rows,
        None,
        f"Objectives side by side (compared by {metric})",
        width,
        columns=(*COLUMNS, difference, *MORE_COLUMNS),
        caption=f"± one standard error {over}",
    )


def plot_comparison(path: Path, summary: Summary, metric: str, baseline: str | None = None) -> None:
    """Draw the metric by iteration for every arm, and the log-probabilities of real and generated responses.

    Where there is a supervised arm, a third plot has the others' differences from it, with their 95 % intervals.

    Args:
        path: of the PNG file.
        summary: of [`summarise_cells`].
        metric: figure of the first plot.
        baseline: name of the supervised arm that the others are held against, or None.
    """
    words, against = figure_of(metric).words, f"{metric}{AGAINST}"
    logps = {f"{kind}, nats": _points(summary, f"logps/{kind}") for kind in ("real", "generated")}
    charts = [
        lines_chart(metric, "By iteration", "", {f"{words} (± s.e.)": _points(summary, metric)}, dashed=False),
        lines_chart("logps", "Log-probabilities, apart", "", logps, dashed=False),
        lines_chart(
            "lead",
            f"Against {baseline}, as many steps",
            "",
            {f"{words}, less that of {baseline} (95 % interval)": _points(summary, against)},
            zero=0.0,
            dashed=False,
        ),
    ]
    write_picture(path, charts)


def _points(summary: Summary, figure: str) -> Series:
    """A figure of every arm from the start on, with its 95 % interval if it is a difference, or its standard error."""
    start = summary.get(START_ARM, {})
    return {
        arm: [
            Point(iteration, found[figure], *_ends(found, figure), came_from=iteration - 1)
            for iteration, found in {**start, **iterations}.items()
            if not math.isnan(found.get(figure, math.nan))
        ]
        for arm, iterations in summary.items()
        if arm != START_ARM
    }


def _ends(found: Mapping[str, float], figure: str) -> tuple[float | None, float | None]:
    value, error = found[figure], found.get(f"{figure}_se", math.nan)
    low, high = value - error, value + error
    if figure.endswith(AGAINST):
        low, high = (found.get(f"{figure}{end}", math.nan) for end in ("_low", "_high"))
    # One prompt, or one seed of several, has no interval.
    return (None, None) if math.isnan(low) or math.isnan(high) else (low, high)
