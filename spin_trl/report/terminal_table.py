"""The table of a run: one row per stage, figures with their standard errors, and a mark on the best stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.table import Table

from ..evaluation.figures import FIGURES, RETAINED, Figure, figure_of, is_figure, is_score
from ..evaluation.selection import ModelName
from ..run.stage import DPO
from . import terminal


def difference_of(figure: str, name: str, column: str) -> Figure:
    """Return the figure `name`, the difference of a figure between two models, with the column heading `column`."""
    return replace(figure_of(figure), name=name, column=column, rank=1, is_difference=True)


COLUMNS = [figure for figure in FIGURES.values() if figure.column and not figure.of_comparisons]
"""Columns of the table of a run."""

CHANGE = "change [95 %]"
"""Heading of the column that compares an iteration with its opponent, a baseline with self-play at the same point, or DPO's
result with the model that it started from."""


def written_figure(figures: Mapping[str, float], figure: Figure) -> str:
    """Format a figure with its standard error, or a difference with its interval; `–` if it was not measured."""
    scale, digits = (100, 1) if figure.percent else (1, figure.digits)
    value = figures.get(figure.name, math.nan)
    if figure.is_difference:
        low, high = (figures.get(f"{figure.name}{end}", math.nan) for end in ("_low", "_high"))
        if any(map(math.isnan, (value, low, high))):
            return "–"
        value_text, low_text, high_text = (f"{scale * one:+.{digits}f}" for one in (value, low, high))
        return f"{value_text} [{low_text}, {high_text}]"
    if math.isnan(value):
        return "–"
    error = figures.get(f"{figure.name}_se", math.nan)
    text = f"{scale * value:.{digits}f}"
    return text if math.isnan(error) else f"{text} ±{scale * error:.{digits}f}"


CAPTION = "± one standard error over the held-out prompts; * best by the run's metric"
TEST_CAPTION = "± one standard error over the test prompts; * best by the run's metric on the held-out prompts"
FROM_START = "from start [95 %]"
"""Heading of the column that compares a model with the start."""

CHANGE_CAPTION = "; change: an iteration minus its opponent, a baseline minus self-play at the same point"
DPO_CAPTION = ", DPO minus the model that it started from"


def run_table(
    figures: Mapping[ModelName, Mapping[str, float]],
    best: str | None,
    title: str = "",
    width: int | None = None,
    columns: Sequence[Figure] = COLUMNS,
    caption: str = CAPTION,
    metric: str | None = None,
    change: tuple[str, str] = (CHANGE, CHANGE_CAPTION),
) -> Table:
    """Return the table of a run.

    Args:
        figures: held-out figures by stage, in order. Columns that no stage has are left out.
        best: stage to mark.
        title: title above the table.
        width: width of the terminal in columns. If the table is wider, the least important figures are dropped, but not
            the metric.
        columns: figures that may be shown, in addition to named scores.
        caption: caption below the table.
        metric: figure whose change is also shown: an iteration's from its opponent, a baseline's from self-play.
        change: heading of the column of changes, and what it adds to the caption.

    Returns:
        A rich table.
    """
    measured = dict.fromkeys(name for found in figures.values() for name in found)
    named = [name for name in measured if is_score(name) and "/" in name and is_figure(name, measured)]
    shown = [*map(figure_of, named), *(column for column in columns if column.name in measured)]
    changed = next((column for column in shown if column.name == metric), None)
    if changed is not None and f"{metric}_change" in measured:
        shown.insert(shown.index(changed) + 1, difference_of(changed.name, f"{metric}_change", change[0]))
        caption += change[1]
        if change[1] == CHANGE_CAPTION and any(stage.startswith(f"{DPO}/") for stage in figures):
            caption += DPO_CAPTION
    for name in [name for name in measured if name.startswith(RETAINED) and is_figure(name, measured)]:
        if name not in (column.name for column in shown) and f"{RETAINED}prompts" != name:
            shown.append(figure_of(name))
        kept = next((column for column in shown if column.name == name), None)
        if kept is not None and f"{name}_change" in measured:
            shown.insert(shown.index(kept) + 1, replace(difference_of(name, f"{name}_change", FROM_START), rank=2))
    measuring = terminal.console(width=10_000)
    while True:
        table = _rich_table(figures, shown, best, title, caption)
        if width is None or len(shown) <= 1 or measuring.measure(table).maximum <= width:
            return table
        others = [
            column for column in shown if column.name != metric
        ] or shown  # the metric says why a model is the best
        shown.remove(max(others, key=lambda column: (column.rank, shown.index(column))))


def _rich_table(
    figures: Mapping[ModelName, Mapping[str, float]],
    columns: Sequence[Figure],
    best: str | None,
    title: str,
    caption: str,
) -> Table:
    table = Table(title=title or None, caption=caption, caption_justify="left")
    table.add_column("model", no_wrap=True)
    for column in columns:
        table.add_column(column.column, justify="right", no_wrap=True)
    arm = ""
    for stage, found in figures.items():
        of_arm = stage.rpartition("/")[0]
        if of_arm != arm:
            table.add_section()
            arm = of_arm
        is_after_dpo = stage.startswith(f"{DPO}/")
        name = stage.removeprefix("baseline/").removeprefix(f"{DPO}/")
        name = name.replace("/iteration-", " ").replace("-", " ")
        name = f"DPO on {name}" if is_after_dpo else name
        table.add_row(
            f"{name} *" if stage == best else name,
            *(written_figure(found, column) for column in columns),
            style="bold" if stage == best else None,
        )
    return table
