"""A YAML value is converted to its setting's type, or refused with what was expected."""

from __future__ import annotations

import datetime
import enum
import math
from typing import Any, Literal

import pytest

from messages import refused
from spin_trl.config.kinds import LARGEST, refuse_odd_parts, typed
from spin_trl.errors import RecipeError


class Colour(enum.Enum):
    RED = "red"
    NO = "no"


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("5e-7", float, 5e-7),  # YAML reads it as text
        (2, float, 2.0),
        ("12", int, 12),
        (LARGEST - 1, int, 2**63 - 1),
        (1 - LARGEST, int, 1 - 2**63),
        (True, bool, True),
        ("yes", bool, "yes"),  # left for the parser to read
        (1234567, str, "1234567"),  # a revision made up of digits
        (datetime.date(2020, 1, 1), str, "2020-01-01"),
        (None, str | None, None),
        ("a", list[str], ["a"]),
        (["1", 2], list[float], [1.0, 2.0]),
        ("red", Colour, "red"),
        (False, Colour, "no"),  # as YAML takes `no`
        (False, Colour | str, "no"),
        (Colour.RED, Colour, Colour.RED),
        ("a", Literal["a", 1], "a"),
        (1, int | str, 1),
        ("x", int | str, "x"),
        ('{"a": [1]}', dict[str, Any] | str | None, {"a": [1]}),
        ({"a": {"b": None}}, dict, {"a": {"b": None}}),
    ],
)
def test_a_value_becomes_what_its_setting_takes(value: Any, kind: Any, expected: Any) -> None:
    found = typed("x", value, kind)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "kind", "parts"),
    [
        (None, float, ("null", "finite number")),
        (True, float, ("True", "finite number")),
        ("nan", float, ("'nan'", "finite number")),
        (math.inf, float, ("inf", "finite number")),
        (1.5, int, (1.5, "integer")),
        (LARGEST, int, (2**63, "64-bit")),
        (1, bool, (1, "true or false")),
        (True, str, ("True", "text")),
        ("a\0b", str, ("text",)),
        ("\ud800", str, ("text",)),
        ({"a": 1}, str, ("text",)),
        ([1, "a"], list[float], ("list", "finite number")),
        ("blue", Colour, ("'blue'", "'red'", "'no'")),
        ("", Colour | str, ("''", "'red'")),
        ("b", Literal["a"], ("'b'",)),
        ({}, int | str | None, ("{}", "integer", "text", "null")),
        ("[1]", dict, ("mapping",)),
        ({1: 2}, dict, (1, "text")),
    ],
)
def test_any_other_value_is_refused_with_what_is_expected(value: Any, kind: Any, parts: tuple[object, ...]) -> None:
    with refused(RecipeError, "`x`", *parts):
        typed("x", value, kind)


def test_a_setting_that_may_name_a_file_keeps_its_name() -> None:
    """`deepspeed` is a file or a mapping, depending on its first character; `column_mapping` is YAML, parsed by its
    class.
    """
    assert typed("deepspeed", "zero3.json", dict | str | None) == "zero3.json"
    assert typed("deepspeed", ' {"zero_optimization": {}}', dict | str | None) == {"zero_optimization": {}}
    assert typed("column_mapping", "question: prompt", dict[str, Any] | str | None) == "question: prompt"


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({"a": [{"b": math.nan}]}, "nan"),
        ([[-math.inf]], "-inf"),
        ({"a": {3: "b"}}, 3),
        ({"a\0": 1}, "key"),
        ([2**63], 2**63),
        (["a\0"], "text"),
        ({"a": datetime.date(2020, 1, 1)}, "datetime.date"),
        ({"a": {1, 2}}, "{1, 2}"),
    ],
)
def test_what_json_can_not_hold_is_found_however_deep(value: Any, part: object) -> None:
    with refused(RecipeError, "`x`", part):
        refuse_odd_parts("x", value)


def test_what_json_holds_passes() -> None:
    refuse_odd_parts("x", {"a": [1, -0.5, True, None, "ä", {"b": (2**63 - 1, "")}]})
