"""What settings are checked with: a check passes, or raises with the setting, what was found and what is expected."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from ..errors import RecipeError


@dataclass(frozen=True)
class Bounds:
    """Between which numbers a setting, or each number of a list, lies.

    It stands in the field's type, as `Annotated[int, Bounds(1)]`: what is in a field's metadata is handed to argparse, which
    knows no bounds.

    Attributes:
        low, high: both included.
        low_open: whether `low` itself is too low.
    """

    low: float
    high: float = math.inf
    low_open: bool = False


def check_fields(settings: Any) -> None:
    """Every field that declares choices or bounds has a value that fits them, or None.

    Args:
        settings: a dataclass of this package; what it inherits from others' is not looked at.

    Raises:
        RecipeError: a value is none of the choices, or out of bounds.
    """
    kind = type(settings)
    for name, choices, bounds in _checked_fields(kind):
        value = getattr(settings, name)
        for one in value if isinstance(value, list) else () if value is None else (value,):
            if choices:
                one_of(name, one, choices)
            if bounds is not None:
                in_range(name, one, bounds.low, bounds.high, low_open=bounds.low_open)


def _checked_fields(kind: type[Any]) -> list[tuple[str, Sequence[str], Bounds | None]]:
    """Name, choices and bounds of the fields that classes of this package declare."""
    package = __name__.partition(".")[0]
    ours = {
        name
        for base in kind.__mro__
        if base.__module__.partition(".")[0] == package
        for name in inspect.get_annotations(base)
    }
    hints = get_type_hints(kind, include_extras=True)
    return [
        (field.name, field.metadata.get("choices", ()), next(iter(bounds), None))
        for field in dataclasses.fields(kind)
        if field.name in ours
        for bounds in [[one for one in getattr(hints[field.name], "__metadata__", ()) if isinstance(one, Bounds)]]
        if bounds or "choices" in field.metadata
    ]


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """`value` is one of `choices`."""
    if value not in choices:
        raise RecipeError(f"`{name}` is {value!r}; it must be one of {', '.join(map(repr, choices))}.")


def in_range(name: str, value: float, low: float, high: float = math.inf, *, low_open: bool = False) -> None:
    """`value` lies between `low` and `high`, both included, or not `low`."""
    if not (low < value if low_open else low <= value) or value > high:
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
