"""Texts in a card: whatever a model or a dataset wrote stays text, and can't become headings, links or metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..counts import counted
from ..errors import visible
from ..report.tables import Table
from ..report.text import cut

LONGEST_TEXT = 1_200
"""Characters of a text that a card shows."""

_MARKUP_CHARACTERS = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
_BACKTICKS = re.compile("`+")


def escaped(text: str) -> str:
    """A text within a line: every character that means something in Markdown is escaped, and line breaks are spaces."""
    return _MARKUP_CHARACTERS.sub(r"\\\1", " ".join(visible(text).split()))


def fenced(text: str, longest: int = LONGEST_TEXT) -> str:
    """A text as a block of code, whose fence is longer than any in the text, so that it ends where we end it."""
    start, left_out = cut(visible(text), longest)
    fence = "`" * max(3, *(len(found) + 1 for found in _BACKTICKS.findall(start)), 3)
    more = f"\n… and {counted(left_out, 'more character')}" if left_out else ""
    # Other separators than a newline end a line for some readers; none may begin one with a fence.
    shown = "\n".join(start.splitlines())
    return f"{fence}text\n{shown}{more}\n{fence}"


def code(text: str) -> str:
    """A name as code within a line, or in a cell of a table."""
    cleaned = " ".join(visible(text).split()).replace("`", "'")
    return f"`{cleaned}`".replace("|", "\\|")


def named_values(values: Mapping[str, object]) -> str:
    """Names with their values within a line; those without one are left out."""
    return ", ".join(f"{escaped(name)} {code(str(value))}" for name, value in values.items() if value)


def table(found: Table) -> str:
    """A table; the row that is marked stands in bold, and what is in small print behind a line break."""
    cells = []
    for row in found.rows:
        label = f"**{_cell(row.label)}**" if row.is_best else _cell(row.label)
        small = [f"<br><small>{_cell(cell.detail)}</small>" if cell.detail else "" for cell in row.cells]
        cells.append([label, *(_cell(cell.text) + more for cell, more in zip(row.cells, small, strict=True))])
    return rows([_cell(heading) for heading in found.headings], cells)


def rows(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    return "\n".join([_row(headings), _row(["---"] * len(headings)), *map(_row, cells)])


def _cell(text: str) -> str:
    return "<br>".join(escaped(line) for line in text.split("\n"))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
