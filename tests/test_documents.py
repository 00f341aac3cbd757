"""Files, folders, modules and names that documents and docstrings point to exist.

Moving or renaming one silently leaves stale references, and readers look for things that no longer exist.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import spin_trl

TOP = Path(spin_trl.__file__).parents[1]
PACKAGE = TOP / "spin_trl"

DOCUMENTS = sorted(
    path.relative_to(TOP).as_posix()
    for pattern in (
        "README.md",
        "CONTRIBUTING.md",
        "RELEASE.md",
        "SECURITY.md",
        "docs/**/*.md",
        "benchmarks/*.md",
        "recipes/**/*.md",
    )
    for path in TOP.glob(pattern)
)

_PATH = re.compile(r"`((?:spin_trl|tests|docs|recipes|benchmarks)/[^`\s:]*)")
"""A path from the top of the repository, in backticks; a name in the file may follow after a colon."""

_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_MODULE_FILE = re.compile(r"`([\w/]+\.py)`")
_OF_USERS = {"json.py"}
"""Files that a user may have."""

_REFERENCE = re.compile(r"\[`([\w.]+)`\]")
"""TRL names used in docstrings. With a leading `~`, it is a name from another package."""


def paths_in(text: str) -> list[str]:
    return _PATH.findall(text)


def links_in(text: str) -> list[str]:
    """Return the targets of links, without URLs."""
    return [target for target in _LINK.findall(text) if "://" not in target]


def test_there_are_documents() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/data.md", "benchmarks/README.md"} <= set(DOCUMENTS)
    assert {"docs/develop/architecture.md", "docs/develop/adding.md", "recipes/zephyr-7b/README.md"} <= set(DOCUMENTS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_names_what_is_there(document: str) -> None:
    text = (TOP / document).read_text(encoding="utf-8")
    assert [path for path in paths_in(text) if not (TOP / path).exists()] == []
    assert [target for target in links_in(text) if not (TOP / document).parent.joinpath(target).exists()] == []


def test_paths_and_links_are_found() -> None:
    text = "See `spin_trl/files.py::digest`, `docs/data.md`, `make test`, [here](data.md#files) and [there](https://x.org/a.md)."
    assert paths_in(text) == ["spin_trl/files.py", "docs/data.md"]
    assert links_in(text) == ["data.md"]


_NAME_IN_FILE = re.compile(r"`([\w/.-]+\.py)::([\w.]+)`")


@cache
def names_of(path: Path) -> set[str]:
    """Return what a module defines, and members of its classes as `Class.member`."""
    found = set()
    for name, node in defined_in(ast.parse(path.read_text(encoding="utf-8")).body):
        found.add(name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{name}.{member}" for member, _ in defined_in(node.body)}
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_names_functions_that_are_there(document: str) -> None:
    """The form is `file.py::name`."""
    named = _NAME_IN_FILE.findall((TOP / document).read_text(encoding="utf-8"))
    assert [f"{path}::{name}" for path, name in named if name not in names_of(TOP / path)] == []


def defined_in(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Return functions, classes, and names that are assigned."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((name.id, node) for one in targets for name in ast.walk(one) if isinstance(name, ast.Name))


def endings(parts: tuple[str, ...]) -> set[str]:
    """Return `a.b.c`, `b.c` and `c`, since a reference may leave out what is clear."""
    return {".".join(parts[start:]) for start in range(len(parts))}


def known_names() -> set[str]:
    """Return modules, their definitions, and members of classes by the class's name, in every form that a reference
    may have.
    """
    known: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(TOP).with_suffix("").parts
        module = parts[:-1] if parts[-1] == "__init__" else parts
        known |= endings(module)
        for name, node in defined_in(ast.parse(path.read_text(encoding="utf-8")).body):
            known |= endings((*module, name))
            if isinstance(node, ast.ClassDef):
                known |= {f"{name}.{member}" for member, _ in defined_in(node.body)}
    return known


KNOWN = known_names()


def test_docstrings_name_what_is_there() -> None:
    found = {
        f"{path.relative_to(TOP)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in _REFERENCE.findall(path.read_text(encoding="utf-8"))
        if name not in KNOWN
    }
    assert found == set()


def test_comments_name_files_that_are_there() -> None:
    files = {
        path.relative_to(TOP).as_posix()
        for folder in ("spin_trl", "benchmarks")
        for path in TOP.glob(f"{folder}/**/*.py")
    }
    found = {
        f"{path.relative_to(TOP)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in _MODULE_FILE.findall(path.read_text(encoding="utf-8"))
        if name not in _OF_USERS and not any(file == name or file.endswith(f"/{name}") for file in files)
    }
    assert found == set()


@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        ("load_rows", True),
        ("data.load", True),
        ("data.load.load_rows", True),
        ("RunDirectory.own", True),
        ("LOSS_TYPES", True),
        ("loss_types", False),
        ("holds_run", False),
        ("RunDirectory.owns", False),
    ],
)
def test_names_are_known_by_what_defines_them(name: str, is_known: bool) -> None:
    assert (name in KNOWN) is is_known
