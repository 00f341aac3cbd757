"""Markdown of pages that are generated from the code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

WRITTEN = "<!-- Written from the code by `make reference`. Change the code, and write it again. -->\n"

_CODE = re.compile(r"(`[^`]*`)")
_MARKS = re.compile(r"([\\*_\[\]$~])")


def escaped(text: str, *, in_table: bool = False) -> str:
    """Return a text of the code as Markdown that shows it unchanged; text in backticks stays code."""
    parts = [
        part if part.startswith("`") and part.endswith("`") and len(part) > 1 else _plain(part)
        for part in _CODE.split(text)
    ]
    found = "".join(parts)
    return found.replace("|", r"\|") if in_table else found


def _plain(text: str) -> str:
    return _MARKS.sub(r"\\\1", text).replace("<", "&lt;")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, whose cells are already Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def code(*names: str) -> str:
    """Return names as code, with commas between them."""
    return ", ".join(f"`{name}`" for name in names)
