"""Harmless programs run here, in this process."""

from typing import Any

from spin_trl.evaluation.isolation.program import run_program


def lines_of(code: str, *steps: tuple[str, str], before: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    run_program(before, code, steps, lambda line: found.append(dict(line)))
    return found


def test_code_and_steps_share_their_names() -> None:
    found = lines_of(
        "def area(r):\n    return math.floor(math.pi * r * r)",
        ("run", "radius = 2"),
        ("value", "area(radius)"),
        ("check", "assert area(1) == 3"),
        ("check", "assert area(1) == 4"),
        before="import math",
    )
    assert found == [
        {"step": 0},
        {"step": 1, "value": 12},
        {"step": 2, "holds": True},
        {"step": 3, "failed": "AssertionError"},
    ]


def test_code_that_fails_ends_the_program() -> None:
    assert lines_of("def f(:", ("value", "1")) == [{"step": -1, "failed": "SyntaxError"}]
    assert lines_of("import sys\nsys.exit(0)", ("value", "1")) == [{"step": -1, "failed": "SystemExit"}]
    assert lines_of("", ("value", "1"), before="import no_such_module") == [
        {"step": -1, "failed": "ModuleNotFoundError"}
    ]


def test_a_step_that_fails_does_not_end_it() -> None:
    found = lines_of("f = lambda: object()", ("value", "1 / 0"), ("value", "f()"), ("value", "2"))
    assert found[0] == {"step": 0, "failed": "ZeroDivisionError"}
    assert found[1]["failed"].startswith("NotPlainError")
    assert found[2] == {"step": 2, "value": 2}


def test_code_is_no_script_and_inherits_no_future() -> None:
    """With this package's `from __future__ import annotations`, an undefined annotation would not fail."""
    assert lines_of("if __name__ == '__main__':\n    1 / 0", ("value", "__name__")) == [
        {"step": 0, "value": ["str", "generated"]}
    ]
    assert lines_of("def f(x: no_such_name): ...", ("value", "1")) == [{"step": -1, "failed": "NameError"}]
