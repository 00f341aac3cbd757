"""A check names the setting, the value found and what is expected."""

import contextlib
import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from transformers import HfArgumentParser

from messages import names, refused
from spin_trl.config.checks import Bounds, Choices, as_mapping, check_fields, check_setting, thresholds
from spin_trl.config.data import DataConfig
from spin_trl.config.iteration import SPINConfig
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.config.start import StartConfig
from spin_trl.errors import RecipeError


def test_a_choice_is_one_of_those_that_there_are() -> None:
    check_setting("kind", "a", Choices("ab"))
    with refused(RecipeError, "`kind`", "'c'", "'a'", "'b'"):
        check_setting("kind", "c", Choices("ab"))


@pytest.mark.parametrize(
    ("value", "low", "high", "low_open", "expected"),
    [
        (0, 0, 1, False, None),
        (1, 0, 1, False, None),
        (1.1, 0, 1, False, ("at least 0", "at most 1")),
        (-0.1, 0, math.inf, False, ("at least 0",)),
        (0, 0, math.inf, True, ("above 0",)),
        (1e-9, 0, 1, True, None),
        (2, 0, 1, True, ("above 0", "at most 1")),
        (math.nan, 0, 1, False, ("at least 0", "at most 1")),
    ],
)
def test_bounds_are_included_but_for_an_open_one(
    value: float, low: float, high: float, low_open: bool, expected: tuple[str, ...] | None
) -> None:
    bounds = Bounds(low, high, low_open)
    if expected is None:
        check_setting("x", value, bounds)
        return
    with refused(RecipeError, "`x`", value, *expected) as error:
        check_setting("x", value, bounds)
    assert names(str(error.value), "at most") == (high < math.inf)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), ({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1}), ("{}", {})]
)
def test_a_mapping_may_be_json(value: Any, expected: Any) -> None:
    assert as_mapping("m", value) == expected


@pytest.mark.parametrize("value", ["{", "[1]", [1], 3, "a: 1"])
def test_other_values_are_no_mapping(value: Any) -> None:
    with refused(RecipeError, "`m`", "mapping"):
        as_mapping("m", value)


def test_thresholds_are_numbers_by_sign() -> None:
    """Null switches a sign off."""
    assert thresholds("t", '{"a": "0.5", "b": null}', ("a", "b")) == {"a": 0.5, "b": None}
    assert thresholds("t", None, ("a",)) == {}
    with refused(RecipeError, "`t`", "'c'", "'a'"):
        thresholds("t", {"c": 1}, ("a",))
    for wrong in ("high", [1]):
        with refused(RecipeError, "`t`", repr(wrong), "'a'", "number", "null"):
            thresholds("t", {"a": wrong}, ("a",))


@dataclass
class Theirs:
    """Configuration of another package, which checks its own settings."""

    mode: str = field(default="c", metadata={"choices": ["a", "b"]})


@dataclass
class Knobs(Theirs):
    """Configuration declared as in this package."""

    kind: str = field(default="a", metadata={"choices": ["a", "b"]})
    size: Annotated[int | None, Bounds(1)] = None
    shares: Annotated[list[float], Bounds(0, 0.5, low_open=True)] = field(default_factory=lambda: [0.1])


Knobs.__module__ = "spin_trl.config.made_up"


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"kind": "b", "size": 1, "shares": [0.5, 0.1]}, None),
        ({"kind": "c"}, ("`kind`", "'c'", "'a', 'b'")),
        ({"size": 0}, ("`size`", 0, 1)),
        ({"shares": [0.1, 0.0]}, ("`shares`", 0.0, 0.5)),
        ({"shares": [0.6]}, ("`shares`", 0.6, 0.5)),
    ],
)
def test_what_a_field_declares_is_checked(values: dict[str, Any], parts: tuple[Any, ...] | None) -> None:
    with refused(RecipeError, *parts) if parts else contextlib.nullcontext():
        check_fields(Knobs(**values))


@pytest.mark.parametrize(
    ("config", "setting", "value"),
    [
        (SPINConfig, "top_p", "0"),
        (SelfPlayConfig, "num_iterations", "0"),
        (StartConfig, "start_label_smoothing", "1.5"),
        (DataConfig, "max_rows", "0"),
    ],
)
def test_the_parser_takes_what_declares_bounds_and_the_bounds_hold(config: Any, setting: str, value: str) -> None:
    on_a_cpu = ["--bf16", "False"] if config is SPINConfig else []
    HfArgumentParser(config).parse_args_into_dataclasses(on_a_cpu)
    with refused(RecipeError, f"`{setting}`"):
        HfArgumentParser(config).parse_args_into_dataclasses([f"--{setting}", value, *on_a_cpu])
