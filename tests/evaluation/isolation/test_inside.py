"""A new interpreter enters the room correctly."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spin_trl.evaluation.isolation import inside
from spin_trl.evaluation.isolation.inside import Layer
from spin_trl.evaluation.isolation.room import Room

Play = Callable[..., dict[int, Any]]

OUTSIDE_ONLY = {"probe", "room"}


def test_what_runs_inside_imports_the_standard_library_alone() -> None:
    folder = Path(inside.__file__).parent
    for path in folder.glob("*.py"):
        if path.stem in OUTSIDE_ONLY:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = {node.module} if node.module else {alias.name for alias in node.names}
                assert node.level == 1, path
                assert not names & OUTSIDE_ONLY, path
            elif isinstance(node, ast.ImportFrom | ast.Import):
                names = {node.module or ""} if isinstance(node, ast.ImportFrom) else {a.name for a in node.names}
                assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names, path


def test_nothing_of_this_package_is_imported_there(harmless: Play) -> None:
    found = harmless(
        (), "import sys", "sorted(name.split('.')[0] for name in sys.modules if 'spin_trl' in name)", "sys.path"
    )
    assert found[0]["value"] == ["list", []]
    assert str(Path(inside.__file__).parents[1]) not in [entry[1] for entry in found[1]["value"][1]]


def test_the_layers_that_hold_are_reported() -> None:
    played = Room([]).play({"before": "", "code": "", "steps": [("value", "1")]})
    assert (played.layers, played.lines) == (["environment"], [{"step": 0, "value": 1}])


def test_input_and_output_of_the_code_are_nothing(harmless: Play) -> None:
    found = harmless((), "import sys\nprint('x')\nprint('x', file=sys.stderr)", "sys.stdin.read()")
    assert found == {0: {"step": 0, "value": ["str", ""]}}


def test_layers_keep_their_order() -> None:
    assert tuple(Layer) == ("namespaces", "landlock", "user", "limits", "environment")
