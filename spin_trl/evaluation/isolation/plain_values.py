"""Values without behaviour, as JSON: how results leave a process that is not trusted.

What arrives is a number, text, or a collection of these, rebuilt by the receiver. An object whose `__eq__` is always true
does not arrive as such: it has no plain value, or only that of the number, text or collection that it extends.
"""

from __future__ import annotations

import math
from collections.abc import ItemsView, KeysView, Mapping, Set
from decimal import Decimal
from fractions import Fraction
from typing import Any

MOST_MEMBERS = 10_000
"""Members of a set or mapping that are read: hashes can be chosen such that the time grows with the square."""

_EXACT_IN_JSON = 1 << 53
_TYPES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("str", str),
    ("bytes", (bytes, bytearray)),
    ("tuple", tuple),
    ("list", list),
    ("set", (Set, KeysView, ItemsView)),
    ("dict", Mapping),
    ("complex", complex),
    ("decimal", Decimal),
    ("fraction", Fraction),
)


class NotPlainError(ValueError):
    """A value is not plain: an object of another class, or one that contains itself."""


def encode(value: Any) -> Any:
    """Return a value as JSON has it: null, true, false, a number, or a pair of a type's name and the content.

    Raises:
        NotPlainError: if it has no plain value.
    """
    try:
        return _encoded(value)
    except RecursionError:
        raise NotPlainError("it is nested too deeply") from None


def _encoded(value: Any) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        number = int(value)
        return number if -_EXACT_IN_JSON < number < _EXACT_IN_JSON else ["int", hex(number)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else ["float", repr(float(value))]
    kind = next((name for name, types in _TYPES if isinstance(value, types)), None)
    match kind:
        case "str" | "decimal" | "fraction":
            return [kind, str(value)]
        case "bytes":
            return [kind, bytes(value).hex()]
        case "complex":
            return [kind, [_encoded(value.real), _encoded(value.imag)]]
        case "dict":
            return [kind, [[_encoded(key), _encoded(member)] for key, member in dict(value).items()]]
        case None:
            raise NotPlainError(f"it is of type {type(value).__name__}")
    return [kind, [_encoded(member) for member in value]]


def decode(sent: Any) -> Any:
    """Return the value that was encoded. Any input is safe, also one that this module has not encoded.

    Raises:
        NotPlainError: if this is not the code of a value, or has too many members.
    """
    try:
        return _value_of_code(sent)
    except NotPlainError:
        raise
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise NotPlainError(f"{type(error).__name__}") from None


def _value_of_code(sent: Any) -> Any:
    if sent is None or isinstance(sent, bool | int | float):
        return sent
    kind, content = sent
    match kind:
        case "str" if isinstance(content, str):
            return content
        case "int" if isinstance(content, str):
            return int(content, 16)
        case "float" if isinstance(content, str):
            return float(content)
        case "bytes":
            return bytes.fromhex(content)
        case "complex":
            real, imaginary = content
            return complex(_value_of_code(real), _value_of_code(imaginary))
        case "decimal" if isinstance(content, str) and len(content) <= MOST_MEMBERS:
            return Decimal(content)
        case "fraction" if isinstance(content, str):
            above, _, below = content.partition("/")
            return Fraction(int(above), int(below or 1))
        case "list":
            return [_value_of_code(member) for member in content]
        case "tuple":
            return tuple(_value_of_code(member) for member in content)
        case "set" if len(content) <= MOST_MEMBERS:
            return {_frozen(_value_of_code(member)) for member in content}
        case "dict" if len(content) <= MOST_MEMBERS:
            return {_frozen(_value_of_code(key)): _value_of_code(member) for key, member in content}
    raise NotPlainError(f"{kind!r} is not the code of a value")


def _frozen(value: Any) -> Any:
    """Return a member of a set as it can be in one: sets of sets contain frozen ones."""
    return frozenset(value) if isinstance(value, set) else value
