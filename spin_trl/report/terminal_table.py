"""The table of a run: one row a stage, figures with their standard errors, the best one marked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from ..evaluation.figures import is_figure
from . import terminal


@dataclass(frozen=True)
class Column:
    """A figure in the table.

    Attributes:
        heading: above the column.
        figure: its name in `metrics.json`.
        percent: whether it is a share.
        digits: behind the point, unless it is a share.
        rank: columns of high rank go first where the terminal is narrow.
        is_difference: whether it is one of two models, shown with its sign and its 95 % interval.
    """

    heading: str
    figure: str
    percent: bool = False
    digits: int = 3
    rank: int = 0
    is_difference: bool = False


COLUMNS = (
    Column("score %", "score", percent=True),
    Column("greedy %", "score_greedy", percent=True, rank=1),
    Column("NLL/token", "nll"),
    Column("win %", "win_rate", percent=True, rank=1),
    Column("logp real", "logps/real", digits=1, rank=3),
    Column("logp gen.", "logps/generated", digits=1, rank=3),
    Column("tokens", "length_generated", digits=1, rank=4),
    Column("cut %", "truncated", percent=True, rank=2),
    Column("empty %", "empty", percent=True, rank=2),
    Column("same %", "identical", percent=True, rank=2),
)


CHANGE = "change [95 %]"
"""Heading of the column that compares an iteration with its opponent, and a baseline with self-play after as many steps."""

_NAMED_SCORES = ("score/", "score_greedy/")
"""How the figures of a scorer begin that returns several numbers."""


def column_of(figure: str) -> Column:
    """The column of a figure, as it is shown everywhere."""
    known = (column for column in COLUMNS if column.figure == figure)
    return next(known, None) or (_named_score(figure) if figure.startswith(_NAMED_SCORES) else Column(figure, figure))


def _named_score(figure: str) -> Column:
    kind, _, name = figure.partition("/")
    heading = name.replace("_", " ")
    greedy = kind == "score_greedy"
    return Column(f"greedy {heading} %" if greedy else f"{heading} %", figure, percent=True, rank=int(greedy))


def written_figure(figures: Mapping[str, float], column: Column) -> str:
    """A figure with its standard error, or a difference with its interval; `–` where it was not measured."""
    if column.is_difference:
        return _written_difference(figures, column)
    value = figures.get(column.figure)
    if value is None or math.isnan(value):
        return "–"
    error = figures.get(f"{column.figure}_se")
    scale, digits = (100, 1) if column.percent else (1, column.digits)
    text = f"{scale * value:.{digits}f}"
    return text if error is None or math.isnan(error) else f"{text} ±{scale * error:.{digits}f}"


def _written_difference(figures: Mapping[str, float], column: Column) -> str:
    names = [f"{column.figure}{end}" for end in ("", "_low", "_high")]
    if any(math.isnan(figures.get(name, math.nan)) for name in names):
        return "–"
    scale, digits = (100, 1) if column.percent else (1, column.digits)
    value, low, high = (f"{scale * figures[name]:+.{digits}f}" for name in names)
    return f"{value} [{low}, {high}]"


CAPTION = "± one standard error over the held-out prompts; * the best by the run's metric"
CHANGE_CAPTION = "; change: of an iteration from its opponent, of a baseline from self-play at the same point"


def run_table(
    figures: Mapping[str, Mapping[str, float]],
    best: str | None,
    title: str = "",
    width: int | None = None,
    columns: Sequence[Column] = COLUMNS,
    caption: str = CAPTION,
    metric: str | None = None,
) -> Table:
    """The table of a run.

    Args:
        figures: held-out figures by stage, in order. Columns that no stage has are left out.
        best: the stage to mark.
        title: above the table.
        width: columns of the terminal. Where the table is wider, less important figures go.
        columns: what may be shown, beside named scores.
        caption: below the table.
        metric: figure whose change is shown, too: an iteration's from its opponent, a baseline's from self-play.

    Returns:
        A table for rich.
    """
    named = dict.fromkeys(name for found in figures.values() for name in found if name.startswith(_NAMED_SCORES))
    shown = [
        *(_named_score(name) for name in named if is_figure(name, named)),
        *(column for column in columns if any(column.figure in found for found in figures.values())),
    ]
    changed = next((column for column in shown if column.figure == metric), None)
    if changed is not None and any(f"{metric}_change" in found for found in figures.values()):
        difference = dataclasses.replace(
            changed, heading=CHANGE, figure=f"{metric}_change", rank=1, is_difference=True
        )
        shown.insert(shown.index(changed) + 1, difference)
        caption += CHANGE_CAPTION
    table = _rich_table(figures, shown, best, title, caption)
    while width is not None and len(shown) > 1 and _width(table) > width:
        last = max(shown, key=lambda column: (column.rank, shown.index(column)))
        shown = [column for column in shown if column != last]
        table = _rich_table(figures, shown, best, title, caption)
    return table


def _rich_table(
    figures: Mapping[str, Mapping[str, float]], columns: Sequence[Column], best: str | None, title: str, caption: str
) -> Table:
    table = Table(
        title=title or None,
        caption=caption,
        caption_justify="left",
    )
    table.add_column("model", no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    arm = ""
    for stage, found in figures.items():
        of_arm = stage.rpartition("/")[0]
        if of_arm != arm:
            table.add_section()
            arm = of_arm
        name = stage.removeprefix("baseline/").replace("/iteration-", " ").replace("-", " ")
        table.add_row(
            f"{name} *" if stage == best else name,
            *(written_figure(found, column) for column in columns),
            style="bold" if stage == best else None,
        )
    return table


def _width(table: Table) -> int:
    return terminal.console(width=10_000).measure(table).maximum
