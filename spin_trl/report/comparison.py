"""The table and the plot of a comparison of objectives: means over seeds with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from ..config.traits import EQUAL_STEPS
from ..evaluation.figures import FIGURES, Figure, figure_of, is_figure
from ..evaluation.intervals import mean_and_error, of_mean
from ..run.compute import compute_of
from ..run.journal import Entry
from ..run.stage import BEST_SFT, DPO, Stage
from .drawing import Point, Series, lines_chart, write_picture
from .terminal_table import COLUMNS, difference_of, run_table

START_ARM = "start"

COSTS = (
    Figure("steps", "gradient steps", column="steps", digits=0, rank=5),
    Figure("seconds", "seconds", column="seconds", digits=0, rank=2),
    Figure("seeds", "seeds", column="seeds", digits=0, rank=5),
    Figure("generated_tokens", "tokens generated", column="tokens gen.", digits=0, rank=3),
)
"""Costs of an arm, shown in addition to its held-out figures."""

COMPUTE_SO_FAR = "compute_so_far"
"""The compute that a stage's model has taken from the given model on: with that of the stages it continues from."""

OF_COMPUTE = (
    Figure("seconds", "seconds", column="seconds", digits=0, rank=1),
    Figure("tokens_trained", "tokens trained on", column="trained", digits=0, rank=3),
    Figure("tokens_scored", "tokens scored", column="scored", digits=0, rank=3),
    Figure("tokens_prefilled", "tokens prefilled", column="prefilled", digits=0, rank=3),
    Figure("tokens_sampled", "tokens sampled", column="sampled", digits=0, rank=3),
    Figure("compute", "compute", column="compute", digits=0, rank=1),
    Figure(COMPUTE_SO_FAR, "compute so far", column="so far", digits=0, rank=2),
)
"""Columns of the table of costs."""

COST_CAPTION = "tokens; compute: 3 x trained + scored + prefilled + sampled; so far: with the stages before"

MORE_COLUMNS = (*(figure for figure in FIGURES.values() if figure.of_comparisons), *COSTS)

AGAINST = "_vs_baseline"
"""Suffix of a figure's difference from the supervised arm at the same iteration; negative if that arm's is higher."""

FROM_DPO = "_vs_dpo"
"""Suffix of a figure's difference, after DPO on top of self-play, from DPO on the start."""

AFTER_DPO = f" > {DPO}"
"""End of the names of arms that end with DPO on top. They have a single row, one iteration after the last."""

_DIFFERENCES = (AGAINST, FROM_DPO)

Summary = dict[str, dict[int, dict[str, float]]]
"""Figures by arm and iteration; the start is a separate arm, at iteration -1."""


@dataclass(frozen=True)
class ArmFigures:
    """The figures of one arm at one iteration with one seed."""

    arm: str
    iteration: int
    seed: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class EarlyEnd:
    """The reason why an arm did not play all its iterations.

    Attributes:
        arm: name of the arm.
        seed: seed of its run.
        stage: stage at which the run ended.
        reason: reason in words.
        step: training step at which it ended, if it ended in training.
        rows: pairs of that step that caused the fault, if known: key, iteration and sample of each.
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
    """Compute means over seeds and their standard errors.

    Args:
        cells: measured figures.
        num_seeds: number of seeds in the comparison.

    Returns:
        By arm and iteration, each figure's mean over the seeds, its standard error `NAME_se`, and the number of `seeds`. A
        comparison with a single seed keeps the standard errors over held-out prompts; if only one of several seeds was
        measured, there is no standard error.
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
        if len(values) > 1 and name.endswith(_DIFFERENCES):
            means[f"{name}_low"], means[f"{name}_high"] = of_mean(values)
    return means


@dataclass(frozen=True)
class ComparedWith:
    """The arms that a comparison's other arms are compared with, prompt by prompt.

    Attributes:
        baseline: name of the supervised arm that self-play arms are compared with, or None.
        dpo: name of the arm of DPO on the start, with which DPO on top of self-play is compared, or None.
    """

    baseline: str | None = None
    dpo: str | None = None

    def columns(self, metric: str) -> list[Figure]:
        """Return the columns of the differences in a metric."""
        named = {AGAINST: self.baseline, FROM_DPO: self.dpo}
        return [difference_of(metric, f"{metric}{of}", f"minus {name} [95 %]") for of, name in named.items() if name]


NOTHING = ComparedWith()


def comparison_table(
    summary: Summary, metric: str, num_seeds: int, width: int | None, compared_with: ComparedWith = NOTHING
) -> Table:
    """Return the table of a comparison, with one row per arm and iteration.

    Args:
        summary: result of [`summarise_cells`].
        metric: metric of the recipe, named above the table.
        num_seeds: number of seeds played.
        width: width of the terminal in columns; None: all columns are shown.
        compared_with: the arms that the others are compared with.
    """
    costs = {figure.name for figure in COSTS}
    rows = {
        _row_name(arm, iteration): {
            # Costs vary with the machine, not with the method, so they have no standard error.
            name: value
            for name, value in figures.items()
            if name.removesuffix("_se") == name or name.removesuffix("_se") not in costs
        }
        for arm, iterations in summary.items()
        for iteration, figures in iterations.items()
    }
    over = f"over {num_seeds} seeds" if num_seeds > 1 else "over the held-out prompts, for one seed"
    return run_table(
        rows,
        None,
        f"Objectives side by side (compared by {metric})",
        width,
        columns=(*COLUMNS, *compared_with.columns(metric), *MORE_COLUMNS),
        caption=f"± one standard error {over}",
    )


def table_of_test_set(
    summary: Summary, metric: str, num_seeds: int, width: int | None, compared_with: ComparedWith = NOTHING
) -> Table | None:
    """Return the table of figures on the test set, with one row per arm; None if there are none.

    Args:
        summary: result of [`summarise_cells`] for the test set, with one iteration per arm.
        metric: metric of the recipe; `nll` takes its place if the test set does not have it.
        num_seeds: number of seeds played.
        width: width of the terminal in columns; None: all columns are shown.
        compared_with: the arms that the others are compared with.
    """
    rows = {arm: figures for arm, iterations in summary.items() for figures in iterations.values()}
    if not rows:
        return None
    shown = metric if any(metric in figures for figures in rows.values()) else "nll"
    over = f"over {num_seeds} seeds" if num_seeds > 1 else "over the test prompts, for one seed"
    return run_table(
        rows,
        None,
        "On the test set: the best model of every arm by the held-out prompts",
        width,
        columns=(*COLUMNS, *compared_with.columns(shown)),
        caption=f"± one standard error {over}",
    )


def _row_name(arm: str, iteration: int) -> str:
    return arm if arm == START_ARM or arm.endswith(AFTER_DPO) else f"{arm}/iteration-{iteration}"


def costs_of_stage(entries: Sequence[Entry]) -> dict[str, float]:
    """Return the costs of a stage from its journal entries: steps, seconds, tokens generated, and the compute if known."""
    costs = {
        "seconds": float(sum(entry.get("seconds", 0.0) for entry in entries)),
        "generated_tokens": float(sum(entry.get("tokens", 0) for entry in entries)),
        "steps": float(sum(entry.get("steps", 0) for entry in entries)),
    }
    found = compute_of(entries)
    if found is not None:
        costs |= {f"tokens_{name}": float(count) for name, count in asdict(found).items()}
        costs["compute"] = found.total
    return costs


def add_sums(summary: Summary) -> None:
    """Add to every arm and iteration the compute so far ([`COMPUTE_SO_FAR`]), if that of every earlier stage is known."""
    starts = summary.get(START_ARM, {}).get(-1, {}).get("compute", 0.0)
    for arm, iterations in summary.items():
        so_far = 0.0 if arm in (START_ARM, BEST_SFT) else starts
        for figures in iterations.values():
            # After DPO, it is known of every seed: each has a model of its own that DPO started from.
            if "compute" not in figures or arm.endswith(AFTER_DPO):
                break
            so_far += figures["compute"]
            figures[COMPUTE_SO_FAR] = so_far


def cost_table(summary: Summary, width: int | None) -> Table | None:
    """Return the table of what every row of the comparison has cost, as a mean over the seeds; None if nothing is known.

    Args:
        summary: result of [`summarise_cells`], with its sums.
        width: width of the terminal in columns; None: all columns are shown.
    """
    names = {figure.name for figure in OF_COMPUTE}
    rows = {
        _row_name(arm, iteration): {name: value for name, value in figures.items() if name in names}
        for arm, iterations in summary.items()
        for iteration, figures in iterations.items()
    }
    if not any("compute" in row for row in rows.values()):
        return None
    return run_table(rows, None, "Costs", width, columns=OF_COMPUTE, caption=COST_CAPTION)


def plot_comparison(
    path: Path, summary: Summary, metric: str, baseline: str | None = None, equal: str = EQUAL_STEPS
) -> None:
    """Draw the metric by iteration for every arm and the log-probabilities of real and generated responses.

    If there is a supervised arm, a third plot shows the other arms' differences from it with their 95 % intervals.

    Args:
        path: path of the PNG file.
        summary: result of [`summarise_cells`].
        metric: figure of the first plot.
        baseline: name of the supervised arm that the others are compared with, or None.
        equal: what it has in common with the first arm: the number of steps, or the compute (`baseline_equal`).
    """
    words, against = figure_of(metric).words, f"{metric}{AGAINST}"
    logps = {f"{kind}, nats": _points(summary, f"logps/{kind}") for kind in ("real", "generated")}
    charts = [
        lines_chart(metric, "By iteration", "", {f"{words} (± s.e.)": _points(summary, metric)}, dashed=False),
        lines_chart("logps", "Log-probabilities of real and generated responses", "", logps, dashed=False),
        lines_chart(
            "lead",
            f"Against {baseline}, with equal {equal}",
            "",
            {f"{words}, minus {baseline} (95 % interval)": _points(summary, against)},
            zero=0.0,
            dashed=False,
        ),
    ]
    write_picture(path, charts)


def _points(summary: Summary, figure: str) -> Series:
    """Return a figure of every arm from the start on, with its standard error, or for a difference its 95 % interval."""
    start = summary.get(START_ARM, {})
    return {
        arm: [
            Point(iteration, found[figure], *_ends(found, figure), came_from=iteration - 1)
            for iteration, found in {**({} if _has_one_point(arm) else start), **iterations}.items()
            if not math.isnan(found.get(figure, math.nan))
        ]
        for arm, iterations in summary.items()
        if arm != START_ARM
    }


def _has_one_point(arm: str) -> bool:
    """Return whether an arm has a single row, at the end, that does not continue the start step by step."""
    return arm == BEST_SFT or arm.endswith(AFTER_DPO)


def _ends(found: Mapping[str, float], figure: str) -> tuple[float | None, float | None]:
    value, error = found[figure], found.get(f"{figure}_se", math.nan)
    low, high = value - error, value + error
    if figure.endswith(_DIFFERENCES):
        low, high = (found.get(f"{figure}{end}", math.nan) for end in ("_low", "_high"))
    # A single prompt, or one seed out of several, has no interval.
    return (None, None) if math.isnan(low) or math.isnan(high) else (low, high)
