"""Nulls that Arrow fills in are distinguished from those in the data."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from datasets import Dataset

from messages import names
from spin_trl.data.load import load_rows
from spin_trl.data.nulls import given_arguments, without_foreign
from spin_trl.data.turns import turns_of


def call(arguments: Any, name: str = "price") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def conversation(*calls: Any) -> dict[str, Any]:
    user = {"role": "user", "content": "What does it cost?"}
    return {"messages": [user, {"role": "assistant", "content": None, "tool_calls": list(calls)}]}


def arguments_of(dataset: Dataset) -> list[Mapping[str, Any]]:
    given = given_arguments(dataset)
    turns = [next(turns_of(row, "last", given)) for row in dataset]
    return [turn.response["tool_calls"][0]["function"]["arguments"] for turn in turns]  # type: ignore[index]


def test_arguments_of_other_functions_are_not_filled_in() -> None:
    """Arrow gives each call the arguments of both."""
    rows = Dataset.from_list([conversation(call({"id": 3}, "price")), conversation(call({"city": "Rome"}, "weather"))])
    assert rows[0]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"id": 3, "city": None}
    assert arguments_of(rows) == [{"id": 3}, {"city": "Rome"}]


def test_a_null_that_is_written_down_stays(caplog: pytest.LogCaptureFixture) -> None:
    """A warning names the keys whose nulls Arrow may have filled in."""
    rows = Dataset.from_list([conversation(call({"id": 3, "shop": None}))])
    assert arguments_of(rows) == [{"id": 3, "shop": None}]
    assert caplog.text == ""
    rows = Dataset.from_list([conversation(call({"id": 3, "shop": None})), conversation(call({"id": 4, "shop": "x"}))])
    assert arguments_of(rows) == [{"id": 3, "shop": None}, {"id": 4, "shop": "x"}]
    assert names(caplog.text, "null", "`price`", "`shop`")


def test_json_lines_leave_no_doubt(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = [{"id": 3}, {"id": 4, "shop": None}, {"city": "Rome"}]
    lines = [json.dumps(conversation(call(one))) + "\n" for one in arguments]
    (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    assert arguments_of(load_rows(str(tmp_path / "rows.jsonl"))) == arguments
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ({"id": 3, "city": None}, {"id": 3}),  # another function's
        ({"id": None}, {"id": None}),  # its own
        ({"id": 3, "shop": None}, {"id": 3, "shop": None}),  # nobody's, so Arrow can't have filled it in
        ({"id": 3, "day": None}, {"id": 3, "day": None}),  # argument of both
        ({"city": "Rome"}, {"city": "Rome"}),  # not a null
        ({"of": {"city": None}}, {"of": {"city": None}}),  # below an argument
        ({}, {}),
    ],
)
def test_a_null_goes_where_only_other_functions_have_the_argument(
    arguments: dict[str, Any], kept: dict[str, Any]
) -> None:
    given = {"price": frozenset({"id", "day"}), "weather": frozenset({"city", "day"})}
    assert without_foreign(arguments, "price", given) == kept


def test_arguments_are_looked_at_in_every_column_and_in_json_text() -> None:
    """They are collected by function, if any call gives them a value."""
    rows = [
        {"prompt": conversation(call({"id": 1, "of": None}))["messages"], "completion": conversation()["messages"]},
        {"prompt": conversation()["messages"], "completion": conversation(call({"id": None, "of": 2}))["messages"]},
    ]
    assert given_arguments(Dataset.from_list(rows)) == {"price": {"id", "of"}}
    as_text = Dataset.from_list([conversation(call(json.dumps({"id": 1, "of": None})))])
    assert given_arguments(as_text) == {}  # JSON text states its own nulls
    assert given_arguments(Dataset.from_list([{"prompt": "a", "completion": "b"}])) == {}
