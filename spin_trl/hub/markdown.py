"""Markdown for cards. Text from a model or a dataset stays text: it can't become headings, links or metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..counts import counted
from ..errors import visible
from ..report.tables import Table
from ..report.text import cut

LONGEST_TEXT = 1_200
"""Maximum number of characters of a text that a card shows."""

_MARKUP_CHARACTERS = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
_BACKTICKS = re.compile("`+")


def escaped(text: str) -> str:
    """Return a text for use within a line: Markdown's special characters escaped, line breaks replaced by spaces."""
    return _MARKUP_CHARACTERS.sub(r"\\\1", " ".join(visible(text).split()))


def fenced(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text as a code block whose fence is longer than any in the text, so that the text can't end the block."""
    start, left_out = cut(visible(text), longest)
    fence = "`" * max(3, *(len(found) + 1 for found in _BACKTICKS.findall(start)), 3)
    more = f"\n… and {counted(left_out, 'more character')}" if left_out else ""
    # Some parsers also end lines at separators other than a newline; no such line may begin with a fence.
    shown = "\n".join(start.splitlines())
    return f"{fence}text\n{shown}{more}\n{fence}"


def code(text: str) -> str:
    """Return a name as inline code, also safe in a table cell."""
    cleaned = " ".join(visible(text).split()).replace("`", "'")
    return f"`{cleaned}`".replace("|", "\\|")


def named_values(values: Mapping[str, object]) -> str:
    """Return names with their values as one line; names without a value are left out."""
    return ", ".join(f"{escaped(name)} {code(str(value))}" for name, value in values.items() if value)


def table(found: Table) -> str:
    """Return a report table in Markdown: the best row's label in bold, details in `<small>` after a line break."""
    cells = []
    for row in found.rows:
        label = f"**{_cell(row.label)}**" if row.is_best else _cell(row.label)
        small = [f"<br><small>{_cell(cell.detail)}</small>" if cell.detail else "" for cell in row.cells]
        cells.append([label, *(_cell(cell.text) + more for cell, more in zip(row.cells, small, strict=True))])
    return rows([_cell(heading) for heading in found.headings], cells)


def rows(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are already Markdown."""
    return "\n".join([_row(headings), _row(["---"] * len(headings)), *map(_row, cells)])


def _cell(text: str) -> str:
    return "<br>".join(escaped(line) for line in text.split("\n"))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
