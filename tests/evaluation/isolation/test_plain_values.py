"""Values cross as numbers, texts and collections of these, and lose all behaviour on the way."""

import json
import math
from collections import Counter, OrderedDict, namedtuple
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from spin_trl.evaluation.isolation.plain_values import MOST_MEMBERS, NotPlainError, decode, encode


def crossed(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -3, 2**53, -(2**200), 10**5000, 0.5, 1e300, math.inf, -math.inf, 2 - 3j, "", "ä\udc80\n",
        b"\x00a", [], [1, [2, (3,)]], (), (1,), set(), {1, "a", (2,)}, {}, {"a": [1], (1, 2): {3}, 1: None},
        Decimal("1.10"), Fraction(-1, 3),
    ],
    ids=lambda value: f"{type(value).__name__}",
)  # fmt: skip
def test_a_plain_value_crosses(value: Any) -> None:
    found = crossed(value)
    assert found == value
    assert type(found) is type(value)


def test_nan_crosses() -> None:
    assert math.isnan(crossed(math.nan))


def test_a_class_that_extends_a_plain_one_arrives_as_that() -> None:
    point = namedtuple("point", "x y")
    values = [
        Counter("aab"),
        OrderedDict(a=1),
        point(1, 2),
        {1: 2}.keys(),
        frozenset({frozenset({1})}),
        bytearray(b"a"),
    ]
    found = [crossed(value) for value in values]
    assert found == [{"a": 2, "b": 1}, {"a": 1}, (1, 2), {1}, {frozenset({1})}, b"a"]
    assert [type(value) for value in found] == [dict, dict, tuple, set, set, bytes]


class Equal:
    """Object that claims to equal everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class EqualNumber(int):
    """A number that claims to equal every other."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def test_an_object_that_equals_everything_loses_that() -> None:
    with pytest.raises(NotPlainError):
        encode([1, Equal()])
    assert EqualNumber(3) == 4
    assert crossed(EqualNumber(3)) != 4
    assert crossed([EqualNumber(3)]) == [3]


def test_what_contains_itself_is_not_plain() -> None:
    value: list[Any] = []
    value.append(value)
    for odd in (value, object(), print, range(3), iter([1])):
        with pytest.raises(NotPlainError):
            encode(odd)


@pytest.mark.parametrize(
    "sent",
    [
        "text", {}, [], ["str"], ["str", 1], ["int", "x"], ["int", 5], ["list", 3], ["nothing", []],
        ["set", [["list", []]]], ["dict", [1]], ["bytes", "zz"], ["fraction", "1/0"], ["decimal", "x"], ["float", "x"],
        ["complex", [["str", "a"], 1]],
        ["set", [1] * (MOST_MEMBERS + 1)], ["str", "a", "b"],
    ],
    ids=json.dumps,
)  # fmt: skip
def test_what_is_no_code_of_a_value_is_refused(sent: Any) -> None:
    with pytest.raises(NotPlainError):
        decode(sent)


def test_deep_nesting_is_refused() -> None:
    sent: Any = 1
    for _ in range(100_000):
        sent = ["list", [sent]]
    with pytest.raises(NotPlainError):
        decode(sent)
