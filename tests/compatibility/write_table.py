"""Tries every family and writes docs/reference/models.md: `.venv/bin/python tests/compatibility/write_table.py`."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import conftest  # noqa: F401 - nothing is fetched: before any library of Hugging Face is imported
from compatibility.check import row
from compatibility.families import FAMILIES
from compatibility.table import PAGE
from reference.models_page import page


def main() -> None:
    rows = {}
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows[family.name] = row(family, Path(folder))
        print(family.name, rows[family.name], file=sys.stderr)
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
