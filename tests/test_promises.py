"""The table of promises to users names existing tests.

It can't tell whether a test would fail without its promise; the author of a line has to read the test.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import spin_trl

TOP = Path(spin_trl.__file__).parents[1]
TABLE = TOP / "docs" / "develop" / "promises.md"

_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def promises(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the tests, as (file, function), by the promise that they cover."""
    rows = (line.strip("|").rsplit(" | ", 1) for line in text.splitlines() if line.startswith("| "))
    return {cells[0].strip(): _TEST.findall(cells[1]) for cells in rows if cells[0].strip() != "promise"}


@cache
def collected_from(file: str) -> frozenset[str]:
    """Return the tests that pytest would collect from a file: functions of the module, named as tests are."""
    path = TOP / file
    if not path.is_file():
        return frozenset()
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return frozenset(node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


TEXT, _, WITHOUT = TABLE.read_text(encoding="utf-8").partition("\n## Without a test\n")
PROMISES = promises(TEXT)


def test_there_are_promises() -> None:
    assert len(PROMISES) > 200


def test_every_promise_names_a_test() -> None:
    assert [promise for promise, named in PROMISES.items() if not named] == []


def test_every_named_test_exists() -> None:
    named = [test for tests in PROMISES.values() for test in tests]
    assert [f"{file}::{name}" for file, name in named if name not in collected_from(file)] == []


def test_no_promise_stands_twice() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("| ") and line != "| promise | test |"]
    stated = [line.rsplit(" | ", 1)[0] for line in lines]
    assert sorted(set(stated)) == sorted(stated)


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CHANGELOG.md",
        *(
            f"docs/{name}.md"
            for name in (
                "data",
                "adapters",
                "evaluation",
                "hub",
                "index",
                "many-gpus",
                "plan",
                "report",
                "run-directory",
            )
        ),
    ],
)
def test_documents_with_promises_have_their_part(document: str) -> None:
    assert any(document in heading for heading in re.findall(r"^## (.*)$", TEXT, re.MULTILINE))


def test_what_has_no_test_says_why() -> None:
    rows = [line.strip("| ").split(" | ") for line in WITHOUT.splitlines() if line.startswith("| ")]
    assert rows[0] == ["promise", "where", "why not"]
    assert all(len(row) == 3 and all(row) for row in rows)


def test_the_table_is_read_as_it_is_written() -> None:
    text = (
        "## README.md\n\n| promise | test |\n|---|---|\n"
        "| A run goes on | `tests/play/test_a.py::test_one`, `tests/run/test_b.py::test_two` |\n| Another | |\n"
    )
    assert promises(text) == {
        "A run goes on": [("tests/play/test_a.py", "test_one"), ("tests/run/test_b.py", "test_two")],
        "Another": [],
    }
    assert "test_the_table_is_read_as_it_is_written" in collected_from("tests/test_promises.py")
    assert "promises" not in collected_from("tests/test_promises.py")
    assert collected_from("tests/test_nowhere.py") == frozenset()
