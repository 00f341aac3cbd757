"""Convert a YAML value to the type of its setting, or raise an error that names the expected type.

A dataclass does not check the types of its values, and argparse only checks text: without this, a list in place of a path
would only be noticed far from the recipe, where the path is opened.
"""

from __future__ import annotations

import datetime
import enum
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from ..errors import RecipeError
from .checks import as_mapping, shown

LARGEST = 2**63
"""Integers must be smaller than this: torch and Arrow store them in 64 bits."""

_IN_YAML = ("column_mapping",)
"""Settings that are mappings, and whose class parses them as YAML if they come from the command line."""

_MAY_NAME_FILES = ("accelerator_config", "deepspeed", "fsdp_config", "rubric")
"""Settings that are a mapping or the name of a file that holds one."""


def typed(name: str, value: Any, kind: Any) -> Any:
    """Convert a value to the type of its setting. Text for a boolean is left to the parser.

    Args:
        name: name of the setting.
        value: value from a YAML file, or an argument as parsed by argparse.
        kind: type of the setting, as its class declares it.

    Raises:
        RecipeError: if the setting can't have this value.
    """
    options = types_in(kind)
    if value is None and type(None) in options:
        return None
    if any(_is_mapping(option) for option in options) and not (isinstance(value, str) and _stays_text(name, value)):
        value = as_mapping(name, value)
        refuse_odd_parts(name, value)
        return value
    if any(isinstance(option, type) and issubclass(option, enum.Enum) for option in options):
        value = "no" if value is False else value  # YAML reads `no` as false
        if not isinstance(value, str) or not value.strip():
            options = tuple(option for option in options if option is not str)
    for option in options:
        try:
            return _of_kind(value, option)
        except (ValueError, TypeError, OverflowError):
            continue
    expected = " or ".join(dict.fromkeys(filter(None, map(_said_kind, options)))) or "no value: leave it out"
    raise RecipeError(f"`{name}` is {shown(value)}; expected {expected}.")


def refuse_odd_parts(name: str, value: Any) -> None:
    """Raise if a value contains anything that JSON can't hold, or keys that are not text.

    Args:
        name: name of the setting.
        value: mapping, list or scalar.

    Raises:
        RecipeError: if it does.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str) or not _can_be_written(key):
                raise RecipeError(f"`{name}` has the key {shown(key)}; expected text.")
            refuse_odd_parts(name, part)
    elif isinstance(value, list | tuple):
        for part in value:
            refuse_odd_parts(name, part)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise RecipeError(f"`{name}` holds {value}; expected finite numbers.")
    elif isinstance(value, int):
        if abs(value) >= LARGEST:
            raise RecipeError(f"`{name}` holds {shown(value)}; expected a 64-bit integer.")
    elif value is not None and not _can_be_written(value):
        raise RecipeError(f"`{name}` holds {shown(value)}; expected text, numbers, true, false, lists and mappings.")


def types_in(kind: Any) -> tuple[Any, ...]:
    """Return the member types of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _is_mapping(kind: Any) -> bool:
    return kind is dict or get_origin(kind) is dict


def _stays_text(name: str, value: str) -> bool:
    """Return whether text for a mapping stays text, i.e. is not to be parsed as JSON here."""
    return name in _IN_YAML or (name in _MAY_NAME_FILES and not value.lstrip().startswith("{"))


def _can_be_written(value: Any) -> bool:
    """Return whether a value is text that can be written to files and passed to the system."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _of_kind(value: Any, kind: Any) -> Any:
    """Convert a value to a type; raise ValueError if that is not possible."""
    if get_origin(kind) is list:
        return [_of_kind(part, get_args(kind)[0]) for part in (value if isinstance(value, list) else [value])]
    if get_origin(kind) is Literal:
        if any(value is known for known in get_args(kind)):
            return value
        raise ValueError
    if kind is bool:
        if isinstance(value, bool | str):
            return value
        raise ValueError
    if kind is int:
        number = int(str(value))
        if abs(number) >= LARGEST:
            raise ValueError
        return number
    if kind is float:
        if isinstance(value, bool):
            raise ValueError
        real = float(str(value))
        if not math.isfinite(real):
            raise ValueError
        return real
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return value if isinstance(value, kind) else kind(value).value
    if kind is str:
        if isinstance(value, int | float | datetime.date) and not isinstance(value, bool):
            return str(value)  # a revision made of digits, or a name that looks like a date
        if _can_be_written(value):
            return value
    raise ValueError


def _said_kind(kind: Any) -> str:
    """Return the name of a type for messages."""
    if get_origin(kind) is list:
        return f"a list, each {_said_kind(get_args(kind)[0])}"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return f"one of {', '.join(repr(known.value) for known in kind)}"
    named = {bool: "true or false", int: "a 64-bit integer", float: "a finite number", str: "text"}
    return named.get(kind, "null" if kind is type(None) else "")
