"""Values of a journal's entry that a reader can't use are found, whichever step wrote them."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import pytest

import spin_trl
from spin_trl.run.entry_values import wrong_value

RECORDING = ("record", "append", "record_fit")
"""Names of the functions that write entries."""


VOTE = {"pair": "a", "against": "start", "choice": "left", "result": "won", "reasons": ["rude"]}


@pytest.mark.parametrize(
    ("key", "right", "wrong"),
    [
        ("reason", ["worse", None], [1.5, ["worse"]]),
        ("decision", ["improved"], [None, 3]),
        ("opponent", ["start", "iteration-3"], ["elsewhere", "../start", None, 3]),
        ("seconds", [0, 1, 2.5], ["1", None, True, math.nan, math.inf, -1]),
        ("time", [1_795_883_768.551], [1e308, 10**400, math.nan, -1.0]),
        ("tokens", [0, 7, 2**62], [7.5, "7", True, 10**400]),
        ("learning_rate", [1e-4, 0], ["1e-4", [1e-4], math.nan]),
        ("last", [{"loss": math.nan}], [{"loss": None}, {"loss": 10**400}]),
        ("rows", [300, [["key", 0]]], ["300", 1.5, None]),
        ("at_step", [3, None], ["3"]),
        ("pairs", [{"total": 3, "empty": 0}, {}], [{"total": 3, "empty": [1]}, [], None]),
        ("compute", [{"trained": 3.5}], [{"trained": "3"}, {"trained": math.inf}, 3]),
        ("points", [[[1, 0.5, 2.0]], []], [[[1, 0.5]], [[1, 0.5, "2"]], [1]]),
        ("skipped", [[{"step": 1}]], [[1], {"step": 1}]),
        ("remarks", [["a remark"], []], ["a remark", [1]]),
        (
            "votes",
            [[VOTE], [VOTE | {"result": None}]],
            [
                [VOTE | {"result": ["won"]}],
                [VOTE | {"result": "drawn"}],
                [{name: VOTE[name] for name in VOTE if name != "result"}],
                [VOTE | {"pair": 3}],
                [7],
            ],
        ),
        ("files", [{}], [[]]),
        ("versions", [{"torch": "2.13.0", "peft": None}, {}], [["torch"], "2.13.0", {"torch": 2}]),
        ("origins", [{"data": {"name": "a"}}, {}], [{"data": "a"}, ["a"]]),
        ("notes", [{"a note": {"responses": 1, "first_row": 0}}], [{"a note": 1}, ["a note"]]),
        ("held_out_dataset", ["0273", None], [3]),
        ("bad_rows", [0], ["0", None]),
        ("unscored", [{"score": 1}], [{"score": "1"}, 1]),
        ("of a later version", [None, 3, "text"], []),
    ],
)
def test_a_value_is_of_the_kind_that_its_key_has(key: str, right: list[Any], wrong: list[Any]) -> None:
    whole = {"phase": "train", "stage": "iteration-0", "time": 1.5}
    assert [wrong_value({**whole, key: value}) for value in right] == [None] * len(right)
    assert [wrong_value({**whole, key: value}) for value in wrong] == [key] * len(wrong)


def test_every_value_that_the_package_records_by_name_has_a_kind() -> None:
    recorded = {
        keyword.arg
        for path in Path(spin_trl.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute | ast.Name)
        if (call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id) in RECORDING
        for keyword in call.keywords
        if keyword.arg is not None
    }
    assert {"versions", "origins", "at_step"} <= recorded
    assert sorted(name for name in recorded if wrong_value({name: object()}) is None) == []
