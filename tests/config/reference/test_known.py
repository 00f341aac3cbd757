"""The known properties of a setting are data: they survive a round trip through JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from spin_trl.config.checks import Bounds
from spin_trl.config.reference.known import KnownSetting, Range, settings_as_json

FULL = KnownSetting(
    name="rate",
    group="Training",
    kinds=("number", "array"),
    items="number",
    default=[0.1, 0.2],
    choices=("slow", "fast"),
    bounds=Range(0.0, 1.0, low_open=True, high_open=True, why="with 0 nothing changes"),
    usual=Range(0.1, None, also=(0.0, 3.0)),
    help="How fast θ_0 moves.",
    note="Not for walking.",
    origin="trl",
    phases=("train", "baseline"),
    objectives=("spin", "sft"),
    differs_by_iteration=True,
    may_change=True,
    names_elsewhere=("lr",),
    is_common=True,
)
"""A setting with no property at its default."""

LEAST = KnownSetting("dry", "The run", ("boolean",))

VERSIONS = {"trl": "1.2.3", "transformers": None}


def read_back(*settings: KnownSetting) -> list[KnownSetting]:
    content = json.loads(settings_as_json(settings, VERSIONS))
    return [KnownSetting.of(values) for values in content["settings"]]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(1), Range(1)),
        (Bounds(0, 1, high_open=True), Range(0, 1, high_open=True)),
        (Bounds(0, low_open=True, why="of that"), Range(0, low_open=True, why="of that")),
        (Bounds(-math.inf, 5), Range(None, 5)),
        (Bounds(-math.inf, math.inf, low_open=True, high_open=True), Range(None)),
        (Bounds(0.1, 2, also=(0.0,)), Range(0.1, 2, also=(0.0,))),
        (Bounds(1, words=("auto",)), Range(1, also=("auto",))),
    ],
    ids=str,
)
def test_a_range_has_what_its_bounds_have_and_none_for_infinity(bounds: Bounds, expected: Range) -> None:
    """JSON has no infinity."""
    found = Range.of(bounds)
    assert found == expected
    json.dumps(dataclasses.asdict(found), allow_nan=False)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Range(1), "at least 1"),
        (Range(0.0, low_open=True), "above 0"),
        (Range(None, 4294967295), "at most 4,294,967,295"),
        (Range(0, 1, high_open=True), "at least 0 and below 1"),
        (Range(1e-9, 0.01), "at least 1e-09 and at most 0.01"),
        (Range(0.1, 2, also=(0.0,)), "0, or at least 0.1 and at most 2"),
        (Range(1, also=("auto",)), "auto, or at least 1"),
        (Range(5, also=(0.0, -1.0), why="not said here"), "0, or -1, or at least 5"),
    ],
    ids=str,
)
def test_a_range_in_words(limits: Range, words: str) -> None:
    """The words are the same for 1 and 1.0, and include the reason for the range."""
    assert str(limits) == words


def test_json_gives_back_every_part_with_its_type() -> None:
    assert [name for name, value in vars(FULL).items() if value == vars(LEAST)[name]] == []
    assert read_back(FULL, LEAST) == [FULL, LEAST]


@pytest.mark.parametrize("default", [None, True, 0, 1.0, 1e-6, "text", [], ["a", "b"], {"a": 1}], ids=str)
def test_json_gives_back_the_default_as_it_was(default: Any) -> None:
    """A list stays a list, although other parts are tuples; 1.0 and 1 look the same, but have different types."""
    (found,) = read_back(dataclasses.replace(LEAST, default=default))
    assert (found.default, type(found.default)) == (default, type(default))


@pytest.mark.parametrize("change", [{"nmae": "rate"}, {"name": None}], ids=["unknown", "missing"])
def test_what_is_something_else_is_refused(change: dict[str, Any]) -> None:
    """A file of an earlier or later version must not become a setting with missing parts."""
    (values,) = json.loads(settings_as_json([FULL], VERSIONS))["settings"]
    values = {name: value for name, value in {**values, **change}.items() if value is not None}
    with pytest.raises(TypeError):
        KnownSetting.of(values)


def test_the_file_says_which_versions_it_is_about_and_reads_well_in_a_diff() -> None:
    """There is one part per line, with letters unescaped, and a final newline."""
    text = settings_as_json([FULL], VERSIONS)
    assert json.loads(text)["versions"] == VERSIONS
    assert '"help": "How fast θ_0 moves.",\n' in text
    assert text.endswith("}\n")
