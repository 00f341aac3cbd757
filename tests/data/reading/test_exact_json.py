"""Values of any shape are stored as JSON and restored exactly."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset, Features, Json, List, Value

from spin_trl.data.reading.exact_json import ExactJson, read_exactly, with_json

VALUES = [0.6, 1e-9, 2**63, "7", "true", "null", "é", "", None, [1, "1", None], {"a": {"b": []}}, True]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    """Text that happens to be JSON stays text, and a number keeps its digits."""
    feature = ExactJson()
    assert feature.decode_example(feature.encode_example(value)) == value
    stored = Dataset.from_dict({"x": [value]}, features=Features({"x": ExactJson()}))
    assert stored[0]["x"] == value
    assert type(stored[0]["x"]) is type(value)


def test_what_is_stored_as_json_is_read_exactly_at_any_depth() -> None:
    """Stored values are unchanged, and so is a dataset without any."""
    features = Features({"a": Json(), "b": List({"c": Json(), "d": Value("int64")})})
    rows = Dataset.from_dict({"a": ['{"x": 0.6}'], "b": [[{"c": '"7"', "d": 1}]]}, features=features)
    exact = read_exactly(rows)
    assert exact.features == Features({"a": ExactJson(), "b": List({"c": ExactJson(), "d": Value("int64")})})
    assert rows.features == features
    plain = Dataset.from_dict({"n": [1]})
    assert read_exactly(plain) is plain


def test_only_what_is_stored_as_json_is_written_down_as_that() -> None:
    feature = {"a": ExactJson(), "b": List({"c": ExactJson(), "d": Value("int64")}), "e": Value("string")}
    value = {"a": {"x": 0.6}, "b": [{"c": "7", "d": 1}], "e": "t"}
    assert with_json(value, feature) == {"a": '{"x": 0.6}', "b": [{"c": '"7"', "d": 1}], "e": "t"}
    assert with_json(None, feature) is None
