"""A column's content is determined without decoding it: empty, or true and false values."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List

from spin_trl.data.columns import first_filled, says_true_or_false
from spin_trl.data.load import load_rows


@pytest.mark.parametrize(
    ("values", "first"),
    [
        ([None, None], None),
        (["", None], None),
        ([[], None, []], None),
        ([[], ["a.png"]], 1),
        (["", "a.png"], 1),
        ([0, 1], 0),
        ([None] * 1500 + [0.5], 1500),
        ([{"path": "a"}, None], 0),
    ],
)
def test_the_first_row_that_holds_something_is_found(values: list[Any], first: int | None) -> None:
    assert first_filled(Dataset.from_dict({"x": values}), "x") == first


def test_a_part_of_a_dataset_holds_what_is_in_it() -> None:
    rows = Dataset.from_dict({"x": ["a", "", None]})
    assert first_filled(rows.select([1, 2]), "x") is None
    assert first_filled(rows.select([2, 1, 0]), "x") == 2


def test_pictures_are_not_decoded() -> None:
    """Decoding would fail, since these are not images."""
    rows = Dataset.from_dict({"x": [[], [{"bytes": b"no", "path": None}]]}, Features({"x": List(Image())}))
    assert first_filled(rows, "x") == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False, None], True),
        ([1, 0, 1], True),
        ([1], True),
        ([0.0, 1.0, None], True),
        (["True", "false"], True),
        (["1", "0"], True),
        ([0, 1, 2], False),
        ([0.5, 1.0], False),
        (["boats", "1"], False),
        ([None, None], False),
        ([[1], [0]], False),
        ([str(number) for number in range(100)], False),
    ],
)
def test_what_says_true_or_false_is_known_by_its_values(values: list[Any], expected: bool) -> None:
    assert says_true_or_false(Dataset.from_dict({"x": values}), "x") is expected


@pytest.mark.parametrize(("label", "expected"), [(1, True), ("false", True), ([1], False)])
def test_values_of_a_mixed_column_count_as_what_they_are(label: Any, expected: bool, tmp_path: Path) -> None:
    """Such a column is stored as JSON."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"x": value}) + "\n" for value in (True, label, None)), encoding="utf-8")
    assert says_true_or_false(load_rows(str(path)), "x") is expected
