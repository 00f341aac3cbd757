"""Checks of settings. A failed check raises an error with the setting, its value and the expected value."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from ..errors import RecipeError
from ..files import parse_json


@dataclass(frozen=True)
class Bounds:
    """Bounds of a number, or of each number in a list.

    They are part of the field's type, as `Annotated[int, Bounds(1)]`, because a field's metadata is passed to argparse,
    which does not support bounds.

    Attributes:
        low, high: lower and upper bound, both inclusive.
        low_open, high_open: whether `low` or `high` itself is excluded. Infinity always is.
        why: explanation for the message of what is wrong outside the bounds.
        also: single values outside the bounds that are allowed because they have a special meaning.
        words: texts that are allowed instead of a number.
    """

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    why: str = ""
    also: tuple[float, ...] = ()
    words: tuple[str, ...] = ()

    def __contains__(self, value: float | str) -> bool:
        if isinstance(value, str):
            return value in self.words
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        above = self.low < value if self.low_open else self.low <= value
        return value in self.also or (above and (value < self.high if self.high_open else value <= self.high))

    def __str__(self) -> str:
        low = f"{'above' if self.low_open else 'at least'} {self.low:g}"
        high = "" if math.isinf(self.high) else f" and {'below' if self.high_open else 'at most'} {self.high:g}"
        single = "".join(f"{one!r}, or " for one in self.words) + "".join(f"{number:g}, or " for number in self.also)
        return single + low + high + (f": {self.why}" if self.why else "")


class Choices(tuple[str, ...]):
    """Allowed values of a setting, as text."""

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self))}"


def check_setting(name: str, value: Any, allowed: Bounds | Choices) -> None:
    """Raise unless the value of a setting is allowed."""
    if (reason := problem(name, value, allowed)) is not None:
        raise RecipeError(reason)


def problem(name: str, value: Any, allowed: Bounds | Choices) -> str | None:
    """Return a sentence on what is wrong with the value of a setting; None if the value is allowed."""
    return None if value in allowed else f"`{name}` is {shown(value)}; it must be {allowed}."


def shown(value: Any, most: int = 100) -> str:
    """Return a value's representation for messages, truncated to `most` characters."""
    try:
        text = "null" if value is None else repr(value)
    except (ValueError, RecursionError):  # a number with thousands of digits, or a value that contains itself
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}..."


def check_fields(settings: Any) -> None:
    """Check that every field that declares choices or bounds has an allowed value, or None.

    Args:
        settings: dataclass of this package; fields inherited from other packages are not checked.

    Raises:
        RecipeError: if a value is not one of the choices, or out of bounds.
    """
    for name, allowed in declared(type(settings)).items():
        value = getattr(settings, name)
        for one in value if isinstance(value, list) else () if value is None else (value,):
            check_setting(name, one, allowed)


def declared(kind: type[Any]) -> dict[str, Bounds | Choices]:
    """Return the choices or bounds of fields that are declared by classes of this package, by name."""
    package = __name__.partition(".")[0]
    bases = [base for base in kind.__mro__ if base.__module__.partition(".")[0] == package]
    ours = {name for base in bases for name in inspect.get_annotations(base)}
    hints = get_type_hints(kind, include_extras=True)
    found: dict[str, Bounds | Choices] = {}
    for field in dataclasses.fields(kind):
        bounds = [one for one in getattr(hints[field.name], "__metadata__", ()) if isinstance(one, Bounds)]
        if field.name in ours and (bounds or "choices" in field.metadata):
            found[field.name] = bounds[0] if bounds else Choices(field.metadata["choices"])
    return found


def as_mapping(name: str, value: Any) -> dict[str, Any] | None:
    """Convert a mapping, or JSON from the command line, to a dict."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise RecipeError(
                f'`{name}` is {shown(value)}; expected a mapping as JSON, like \'{{"a": "b"}}\'.'
            ) from error
    if value is not None and not isinstance(value, Mapping):
        raise RecipeError(f"`{name}` is {shown(value)}; expected a mapping.")
    return None if value is None else dict(value)


def thresholds(name: str, value: Any, signs: Sequence[str]) -> dict[str, float | None]:
    """Check the thresholds of degeneration and return them as numbers.

    Args:
        name: name of the setting.
        value: thresholds by sign, as a mapping or JSON; a threshold of None switches a sign off.
        signs: known signs.

    Raises:
        RecipeError: if a sign is unknown, or a threshold is not a number.
    """
    checked: dict[str, float | None] = {}
    for sign, threshold in (as_mapping(name, value) or {}).items():
        check_setting(name, sign, Choices(signs))
        try:
            checked[sign] = None if threshold is None else float(threshold)
        except (TypeError, ValueError, OverflowError):
            checked[sign] = math.nan
        if not math.isfinite(checked[sign] or 0):
            raise RecipeError(f"`{name}` has {shown(threshold)} for {sign!r}; expected a finite number, or null.")
    return checked
