"""Assertions are split into what generated code gets to see and what stays here, and hold only if they are true."""

import math
from typing import Any

import pytest

from spin_trl.evaluation.assertions import Statement, read_steps
from spin_trl.evaluation.isolation.plain_values import encode
from spin_trl.evaluation.isolation.program import StepKind


def only_step(text: str, prompt: str = "") -> Statement:
    (found,) = read_steps([text], prompt)
    return found


@pytest.mark.parametrize(
    ("text", "source", "expected"),
    [
        ("assert add(1, 2) == 3", "add(1, 2)", 3),
        ("assert 3 == add(1, 2)", "add(1, 2)", 3),
        ("assert add(1, 2) == -3.5, 'a message'", "add(1, 2)", -3.5),
        ("assert set(f((1, 2))) == {1, 2}", "set(f((1, 2)))", {1, 2}),
        ("assert f('a') == ('a', [None, {'b': True}])\r\n", "f('a')", ("a", [None, {"b": True}])),
    ],
)
def test_the_literal_stays_here(text: str, source: str, expected: Any) -> None:
    found = only_step(text)
    assert (found.kind, found.source, found.expected) == (StepKind.VALUE, source, expected)
    assert found.holds({"step": 0, "value": encode(expected)})


@pytest.mark.parametrize(
    "text",
    [
        "assert f(1)",
        "assert not f(1)",
        "assert f(1) > 2",
        "assert f(1) == g(1)",
        "assert isclose(f(1), 0.5)",
        "assert x == 1",
    ],
)
def test_other_assertions_are_checked_where_the_code_runs(text: str) -> None:
    found = only_step(text)
    assert (found.kind, found.source) == (StepKind.CHECK, text)
    assert found.holds({"step": 0, "holds": True})
    assert not any(found.holds(sent) for sent in ({}, {"holds": 1}, {"failed": "AssertionError"}, {"value": True}))


def test_other_statements_are_no_assertions() -> None:
    found = read_steps(["import math\nx = f(2)\nassert g(x) == 1", "assert g(x) == 1"], "")
    assert [step.kind for step in found] == [StepKind.RUN, StepKind.RUN, StepKind.VALUE, StepKind.VALUE]
    assert [step.is_assertion for step in found] == [False, False, True, True]


@pytest.mark.parametrize(
    ("expected", "found", "holds"),
    [
        ("3", 3.0, True), ("3", True, False), ("[1, 2]", (1, 2), False), ("{1, 2}", frozenset({2, 1}), True),
        ("{'a': 2}", {"a": 2.0}, True), ("0.3", 0.1 + 0.2, False), ("'3'", 3, False), ("None", None, True),
        ("1", math.nan, False),
    ],
)  # fmt: skip
def test_values_are_compared_as_python_does(expected: str, found: Any, holds: bool) -> None:
    assert only_step(f"assert f(1) == {expected}").holds({"value": encode(found)}) is holds


@pytest.mark.parametrize("value", [["nothing", 1], ["list", 3], "text", {}, [[]], ["decimal", "sNaN"]], ids=str)
def test_whatever_else_is_sent_does_not_hold(value: Any) -> None:
    assert not only_step("assert f(1) == 1").holds({"value": value})


def test_assertions_of_the_prompt_are_known() -> None:
    """This holds for any layout, quotes and outer brackets."""
    prompt = "Write it. Your code should pass this test:\nassert  f( 'a',1 ) == [0x10]"
    assert only_step('assert f("a", 1) == [0x10]', prompt).is_shown
    assert only_step("assert (f('a', 1) == [0x10])", prompt).is_shown
    assert not only_step("assert f('a', 2) == [0x10]", prompt).is_shown


def test_a_test_that_is_no_python_is_an_error() -> None:
    with pytest.raises(SyntaxError):
        read_steps(["assert f(1) ="], "")
