"""What settings are checked with: a check passes, or raises with the setting, what was found and what is expected."""

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
    """Between which numbers a setting, or each number of a list, lies.

    It stands in the field's type, as `Annotated[int, Bounds(1)]`: what is in a field's metadata is handed to argparse, which
    knows no bounds.

    Attributes:
        low, high: both included.
        low_open, high_open: whether `low` itself is too low, or `high` too high. Infinity always is.
        why: what is wrong beyond them, for the message.
        also: single numbers outside that mean something of their own.
    """

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    why: str = ""
    also: tuple[float, ...] = ()

    def __contains__(self, value: float) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        above = self.low < value if self.low_open else self.low <= value
        return value in self.also or (above and (value < self.high if self.high_open else value <= self.high))

    def __str__(self) -> str:
        low = f"{'above' if self.low_open else 'at least'} {self.low:g}"
        high = "" if math.isinf(self.high) else f" and {'below' if self.high_open else 'at most'} {self.high:g}"
        single = "".join(f"{number:g}, or " for number in self.also)
        return single + low + high + (f": {self.why}" if self.why else "")


class Choices(tuple[str, ...]):
    """What a setting may be, as texts."""

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self))}"


def check_setting(name: str, value: Any, allowed: Bounds | Choices) -> None:
    """Raise unless a setting has a value that it may have."""
    if (reason := problem(name, value, allowed)) is not None:
        raise RecipeError(reason)


def problem(name: str, value: Any, allowed: Bounds | Choices) -> str | None:
    """What is wrong with the value of a setting, as a sentence; None if it is one that the setting may have."""
    return None if value in allowed else f"`{name}` is {shown(value)}; it must be {allowed}."


def shown(value: Any, most: int = 100) -> str:
    """A value in a message: at most so many characters of it, whatever it is."""
    try:
        text = "null" if value is None else repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or a value in itself
        text = f"a value of the type {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}..."


def check_fields(settings: Any) -> None:
    """Every field that declares choices or bounds has a value that fits them, or None.

    Args:
        settings: a dataclass of this package; what it inherits from others' is not looked at.

    Raises:
        RecipeError: a value is none of the choices, or out of bounds.
    """
    for name, allowed in declared(type(settings)).items():
        value = getattr(settings, name)
        for one in value if isinstance(value, list) else () if value is None else (value,):
            check_setting(name, one, allowed)


def declared(kind: type[Any]) -> dict[str, Bounds | Choices]:
    """Choices or bounds of the fields that classes of this package declare, by name."""
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
    """A dict, from a dict or (as the command line gives it) from JSON."""
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
        check_setting(name, sign, Choices(signs))
        try:
            checked[sign] = None if threshold is None else float(threshold)
        except (TypeError, ValueError, OverflowError):
            checked[sign] = math.nan
        if not math.isfinite(checked[sign] or 0):
            raise RecipeError(f"`{name}` has {shown(threshold)} for {sign!r}; expected a finite number, or null.")
    return checked
