"""What a comparison of objectives shows: one table, and one plot; means over seeds with their standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from ..evaluation.figures import FIGURES, Figure, is_figure
from ..evaluation.intervals import mean_and_error, of_mean
from ..files import write_atomically
from .plot import difference_bar, show_names_as_they_are
from .terminal_table import COLUMNS, Change, run_table

START_ARM = "start"

COSTS = (
    Figure("steps", "gradient steps", column="steps", digits=0, rank=5),
    Figure("seconds", "seconds", column="seconds", digits=0, rank=2),
    Figure("seeds", "seeds", column="seeds", digits=0, rank=5),
    Figure("generated_tokens", "tokens generated", column="tokens made", digits=0, rank=3),
)
"""What an arm took, beside its held-out figures."""

MORE_COLUMNS = (
    *(figure for figure in FIGURES.values() if figure.of_comparisons),
    *COSTS,
)

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
            interval = of_mean(values)
            means |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
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
    difference = Change.of(metric, f"{metric}{AGAINST}", f"less {baseline} [95 %]")
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
        metric: figure of the left plot.
        baseline: name of the supervised arm that the others are held against, or None.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11 if baseline is None else 16.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right, *more = figure.subplots(1, 2 if baseline is None else 3)
    start = summary.get(START_ARM, {})
    for number, (arm, iterations) in enumerate((arm, found) for arm, found in summary.items() if arm != START_ARM):
        points = {**start, **iterations}
        shown = [
            (t + 1, found[metric], found.get(f"{metric}_se", 0.0)) for t, found in points.items() if metric in found
        ]
        colour = f"C{number}"
        if shown:
            times, values, errors = zip(*shown, strict=True)
            left.errorbar(times, values, yerr=errors, label=arm, marker="o", capsize=3, color=colour)
        held = [
            (t + 1, *bar) for t, found in iterations.items() if (bar := difference_bar(found, f"{metric}{AGAINST}"))
        ]
        for axes in more if held else ():
            times, values, below, above = zip(*held, strict=True)
            axes.errorbar(times, values, yerr=(below, above), label=arm, marker="o", capsize=3, color=colour)
        for name, style in (("logps/real", "-"), ("logps/generated", ":")):
            line = [(t + 1, found[name]) for t, found in points.items() if name in found]
            if line:
                right.plot(*zip(*line, strict=True), style, marker="o", color=colour)
    left.set(xlabel="iterations played", ylabel=f"{metric} on held-out prompts (± s.e.)", title="By iteration")
    right.set(
        xlabel="iterations played",
        ylabel="log-probability (nats)",
        title="Real (solid) and the opponent's responses (dotted)",
    )
    right.set_yscale("symlog")
    if left.get_legend_handles_labels()[1]:
        left.legend()
    for axes in more:
        axes.axhline(0.0, color="grey", linewidth=1)
        axes.set(
            xlabel="iterations played",
            ylabel=f"{metric}, less that of {baseline} (95 % interval)",
            title="Against plain SFT, as many steps",
        )
    for axes in (left, right, *more):
        axes.grid(alpha=0.3)
        show_names_as_they_are(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
