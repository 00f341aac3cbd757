"""What settings are checked with: a check passes, or raises with the setting, what was found and what is expected."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..errors import RecipeError


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """`value` is one of `choices`."""
    if value not in choices:
        raise RecipeError(f"`{name}` is {value!r}; it must be one of {', '.join(map(repr, choices))}.")


def check_choices(config: Any, declared_in: type[Any]) -> None:
    """Every setting that a class declares with choices is one of them, or left out."""
    for known in fields(declared_in):
        value, choices = getattr(config, known.name), known.metadata.get("choices")
        if choices and known.name in declared_in.__annotations__ and value != known.default:
            one_of(known.name, value, choices)


def in_range(name: str, value: float | None, low: float, high: float = math.inf, *, low_open: bool = False) -> None:
    """`value` lies between `low` and `high`, both included, or not `low`; None is left out."""
    if value is not None and (not (low < value if low_open else low <= value) or value > high):
        bounds = f"{'above' if low_open else 'at least'} {low}" + ("" if math.isinf(high) else f" and at most {high}")
        raise RecipeError(f"`{name}` is {value}; it must be {bounds}.")


def as_mapping(name: str, value: Any) -> dict[str, Any] | None:
    """A dict, from a dict or (as the command line gives it) from JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise RecipeError(f'`{name}` is {value!r}; expected a mapping as JSON, like \'{{"a": "b"}}\'.') from error
    if value is not None and not isinstance(value, Mapping):
        raise RecipeError(f"`{name}` is {value!r}; expected a mapping.")
    return None if value is None else dict(value)


def thresholds(name: str, value: Any, signs: Sequence[str]) -> dict[str, float | None]:
    """Thresholds of degeneration as numbers, or a clear error.

    Args:
        name: of the setting.
        value: thresholds by sign, as a mapping or JSON; None, as one, switches a sign off.
        signs: that there are.

    Raises:
        RecipeError: there is no such sign, or a threshold is no number.
    """
    checked: dict[str, float | None] = {}
    for sign, threshold in (as_mapping(name, value) or {}).items():
        one_of(name, sign, signs)
        try:
            checked[sign] = None if threshold is None else float(threshold)
        except (TypeError, ValueError):
            raise RecipeError(f"`{name}` has {threshold!r} for {sign!r}; expected a number, or null.") from None
    return checked
