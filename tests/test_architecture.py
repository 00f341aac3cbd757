"""The structure of the package: which folder may import which, how many there are, that names are unique, and its
tests.

`docs/develop/architecture.md` describes it. Every import counts, also inside functions and for type checkers alone.
Names in strings are not imports: these are the public names of `spin_trl/__init__.py`, which are loaded when first
used, and functions that a user's setting names as `module:function`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import spin_trl
from shipped_settings import of_shipped_versions

PACKAGE = Path(spin_trl.__file__).parent

LEVELS = (
    {"counts", "errors", "files", "json_lines", "quiet", "sentences"},
    {"data", "objectives"},
    {"evaluation"},
    {"config", "models"},
    {"generation", "run"},
    {"judging", "report", "training"},
    {"hub", "plan"},
    {"play"},
    {"cli"},
    {"__init__", "__main__"},
)
"""Folders, the lowest first: each imports only from those below it."""

SHARED_NAMES = {"NAMED_SCORES", "add", "logger"}
"""Names of every scorer that returns several numbers, of every command that describes its arguments, of modules that log."""


def modules() -> dict[str, Path]:
    """Return the files of the package by their dotted names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(module: str) -> set[str]:
    """Return the modules of the package that one imports, anywhere in it."""
    path, found = MODULES[module], set()
    package = (
        module.split(".") if path.name == "__init__.py" and module != "spin_trl.__init__" else module.split(".")[:-1]
    )
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            inner = {f"{name}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES.keys()) or {name}
    return {"spin_trl.__init__" if name == "spin_trl" else name for name in found if name.split(".")[0] == "spin_trl"}


IMPORTS = {module: imports_of(module) for module in MODULES}


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Return nodes that lead back to themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(arrows[start])
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += arrows.get(node, ())
        return seen

    return [node for node in arrows if node in reached(node)]


def test_every_room_has_its_level() -> None:
    assert {room_of(module) for module in MODULES} == set().union(*LEVELS)


def test_imports_lead_downwards_only() -> None:
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    upwards = [
        f"{module} imports {imported}"
        for module, every in IMPORTS.items()
        for imported in every
        if room_of(imported) != room_of(module) and level[room_of(imported)] >= level[room_of(module)]
    ]
    assert upwards == []


def test_there_is_no_circle_of_modules_or_of_folders() -> None:
    assert circles(IMPORTS) == []
    folders: dict[str, set[str]] = defaultdict(set)
    for module, every in IMPORTS.items():
        folders[room_of(module)] |= {room_of(imported) for imported in every} - {room_of(module)}
    assert circles(folders) == []


def test_the_circle_test_finds_circles() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


def test_the_top_of_the_package_stays_small() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} - {"recipes"}
    files = {path.name for path in PACKAGE.glob("*.py")}
    assert len(folders) <= 14, sorted(folders)
    assert len(files) <= 8, sorted(files)
    assert len(LEVELS) <= 10


def top_level_names(path: Path) -> set[str]:
    """Return functions, classes and constants of a module."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def test_a_top_level_name_is_defined_once() -> None:
    """So a search for it finds it. `spin_trl.sentences` keeps the name of its function, which recipes refer to."""
    defined = defaultdict(list)
    for module, path in MODULES.items():
        if path.name not in ("__init__.py", "__main__.py"):
            for name in top_level_names(path) - SHARED_NAMES:
                defined[name].append(module)
    assert {name: where for name, where in defined.items() if len(where) > 1} == {}


def test_the_nearest_name_is_found_in_one_place() -> None:
    """`nearest` provides the wording of all messages. The report's page compares two recipes line by line."""
    importing = {
        module
        for module, path in MODULES.items()
        if re.search(r"^\s*(import|from) difflib\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert importing == {"spin_trl.errors", "spin_trl.report.html.diff"}


OWN_JSON = {
    "spin_trl.data.reading.exact_json",
    "spin_trl.data.template.identity",
    "spin_trl.evaluation.harness",
    "spin_trl.evaluation.isolation.inside",
    "spin_trl.models.saving",
}
"""Modules that parse JSON which this package or a library has just written."""


def test_json_of_others_is_parsed_in_two_places() -> None:
    """`json.loads` raises `RecursionError` for text that is nested too deeply, which every caller would have to handle."""
    found = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in ("loads", "load") and ast.unparse(node.value) == "json")
        or (isinstance(node, ast.ImportFrom) and node.module == "json" and not node.level)
    }
    assert found == OWN_JSON | {"spin_trl.files", "spin_trl.json_lines"}


def imports_in_texts() -> list[tuple[str, str, str]]:
    """Return file, module and name of the imports of scripts that tests and benchmarks contain as text."""
    top = Path(__file__).parents[1]
    found = []
    for path in [*top.glob("tests/**/*.py"), *top.glob("benchmarks/**/*.py")]:
        if "runs-0.1.0" in path.parts:  # created by the version it is named after
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            for module, names in re.findall(r"from (spin_trl[\w.]*) import ([\w, ]+)", text):
                found += [
                    (str(path.relative_to(top)), module, name.split(" as ")[0].strip()) for name in names.split(",")
                ]
    return found


def test_scripts_in_texts_import_what_is_there() -> None:
    """Otherwise a missing name would only be noticed when a test starts the child process."""
    imported = imports_in_texts()
    assert len(imported) > 10
    missing = []
    for file, module, name in imported:
        path = MODULES.get(module) or MODULES.get(f"{module}.__init__")
        text = path.read_text(encoding="utf-8") if path is not None else ""
        if f"{module}.{name}" not in MODULES and not re.search(rf"\b{name}\b", text):
            missing.append(f"{file}: {name} of {module}")
    assert missing == []


def test_no_test_module_imports_another() -> None:
    """Shared code is in a module of helpers. A test's child process may import the test's own module."""
    tests = Path(__file__).parent
    found = []
    for path in tests.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            modules = {name for name in names if name.rpartition(".")[2].startswith("test_")}
            found += [f"{path.relative_to(tests)}: {name}" for name in modules]
    assert found == []


WITHOUT_TESTS: dict[str, str] = {}
"""Modules that need no test file of their own name, by their paths, with the reason."""


def mirror_of(module: Path) -> Path:
    """Return the path of the tests of a module of the package: tests mirror it."""
    return Path(__file__).parent / module.parent / f"test_{module.name}"


def test_every_module_has_a_test_file_of_its_name() -> None:
    """Its promises are tested there. A module without promises of its own is listed above with the reason."""
    every = {path.relative_to(PACKAGE) for path in MODULES.values() if path.name != "__init__.py"}
    missing = {module.as_posix() for module in every if not mirror_of(module).is_file()}
    assert missing == WITHOUT_TESTS.keys()


def test_every_test_file_of_a_module_has_tests() -> None:
    """An empty file would pass the test above."""
    files = [mirror_of(path.relative_to(PACKAGE)) for path in MODULES.values()]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.is_file()}
    assert [str(path) for path, text in texts.items() if not re.search(r"^def test_\w+\(", text, re.MULTILINE)] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["recipes"],
        ["--version"],
        *(pytest.param(of_trl, marks=of_shipped_versions) for of_trl in (["settings"], ["schema"], ["run", "--help"])),
    ],
)
def test_commands_that_compute_nothing_start_without_torch(arguments: list[str]) -> None:
    """`report` has a separate test, with a run to show."""
    code = "import sys\nfrom spin_trl.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
    code += "heavy = {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)\n"
    code += "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
