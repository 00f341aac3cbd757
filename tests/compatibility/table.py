"""The table of docs/reference/models.md is written from families that were tried, and read back to be compared with them."""

import re
from pathlib import Path
from string import ascii_lowercase
from typing import Final

from compatibility.check import COLUMNS
from compatibility.families import FAMILIES, LEFT_OUT

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "reference" / "models.md"
MARKER: Final = "<!-- compatibility -->"
PACKAGES: Final = ("torch", "transformers", "trl", "peft", "bitsandbytes")

Rows = dict[str, dict[str, str]]
"""Cells by column, by family: `yes`, `yes: what it takes`, `no: why not`, or `–`."""


def block(page: str) -> str:
    """Return the text between the two markers."""
    _, found, _ = page.split(MARKER)
    return found


def rendered(rows: Rows) -> str:
    """Return the table, its notes, and what it leaves out."""
    notes: dict[str, str] = {}
    lines = [["family", "for example", *COLUMNS], ["---"] * (2 + len(COLUMNS))]
    for family in FAMILIES:
        cells = [_short(rows[family.name][column], notes) for column in COLUMNS]
        lines.append([family.name, f"`{family.example.split('/')[-1]}`", *cells])
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    versions = [re.search(rf"^{name}==\S+", constraints, re.MULTILINE)[0].replace("==", " ") for name in PACKAGES]
    return "\n".join(
        [
            "",
            *(f"| {' | '.join(cells)} |" for cells in lines),
            "",
            *(f"- ({letter}) {_escaped(note)}" for note, letter in notes.items()),
            *(f"- left out: {reason}" for reason in LEFT_OUT.values()),
            "",
            f"Tried with {', '.join(versions[:-1])} and {versions[-1]}.",
            "",
        ]
    )


def read(text: str) -> Rows:
    """Return the rows that a block shows, with their notes."""
    notes = {found[1]: _plain(found[2]) for found in re.finditer(r"^- \((\w)\) (.*)$", text, re.MULTILINE)}
    rows = {}
    for line in text.strip().splitlines()[2:]:
        if line.startswith("| "):
            name, _, *cells = line.strip("| ").split(" | ")
            rows[name] = {column: _long(cell, notes) for column, cell in zip(COLUMNS, cells, strict=True)}
    return rows


def _short(cell: str, notes: dict[str, str]) -> str:
    """Return a cell with the letter of its note; a new note gets a letter."""
    mark, _, note = cell.partition(": ")
    if not note:
        return mark
    return f"{mark} ({notes.setdefault(note, ascii_lowercase[len(notes)])})"


def _long(cell: str, notes: dict[str, str]) -> str:
    mark, _, letter = cell.partition(" ")
    return f"{mark}: {notes[letter.strip('()')]}" if letter else mark


def _escaped(note: str) -> str:
    return note.replace("\\", "\\\\").replace("<", "\\<")


def _plain(text: str) -> str:
    return text.replace("\\<", "<").replace("\\\\", "\\")
