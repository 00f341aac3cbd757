"""The table of a run: one row a stage, figures with their standard errors, the best one marked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class Column:
    """A figure in the table: its heading, its name in `metrics.json`, and how it is written."""

    heading: str
    figure: str
    percent: bool = False
    digits: int = 3


COLUMNS = (
    Column("score %", "score", percent=True),
    Column("greedy %", "score_greedy", percent=True),
    Column("NLL/token", "nll"),
    Column("win rate %", "win_rate", percent=True),
    Column("logp real", "logps/real", digits=1),
    Column("logp gen.", "logps/generated", digits=1),
    Column("tokens", "length_generated", digits=1),
    Column("cut %", "truncated", percent=True),
    Column("empty %", "empty", percent=True),
    Column("same %", "identical", percent=True),
)


def written(figures: Mapping[str, float], column: Column) -> str:
    """A figure with its standard error, `–` where it was not measured."""
    value = figures.get(column.figure)
    if value is None or math.isnan(value):
        return "–"
    error = figures.get(f"{column.figure}_se")
    scale, digits = (100, 1) if column.percent else (1, column.digits)
    text = f"{scale * value:.{digits}f}"
    return text if error is None or math.isnan(error) else f"{text} ±{scale * error:.{digits}f}"


def run_table(figures: Mapping[str, Mapping[str, float]], best: str | None, title: str = "") -> Table:
    """The table of a run.

    Args:
        figures: held-out figures by stage, in order.
        best: the stage to mark.
        title: above the table.

    Returns:
        A table for rich; columns that no stage has are left out.
    """
    columns = [column for column in COLUMNS if any(column.figure in found for found in figures.values())]
    table = Table(
        title=title or None, caption="± one standard error over the held-out prompts; * the best by the run's metric"
    )
    table.add_column("model")
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for stage, found in figures.items():
        name = f"{stage} *" if stage == best else stage
        table.add_row(name, *(written(found, column) for column in columns), style="bold" if stage == best else None)
    return table
