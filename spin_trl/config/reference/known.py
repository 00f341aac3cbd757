"""Descriptions of settings as data, from which the help, the schema and the reference pages are generated."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..checks import Bounds

ALWAYS = "always"
"""In place of a phase: the setting applies to all phases."""

OURS_ORIGIN = "spin_trl"


@dataclass(frozen=True)
class Range:
    """Range of a numeric setting, like [`Bounds`]; None means unbounded."""

    low: float | None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    also: tuple[float | str, ...] = ()
    why: str = ""

    @classmethod
    def of(cls, bounds: Bounds) -> Range:
        """Convert bounds to a form that JSON can hold."""
        low, high = (number if math.isfinite(number) else None for number in (bounds.low, bounds.high))
        low_open, high_open = bounds.low_open and low is not None, bounds.high_open and high is not None
        return cls(low, high, low_open, high_open, (*bounds.words, *bounds.also), bounds.why)

    def __str__(self) -> str:
        parts = [f"{one if isinstance(one, str) else _number_in_words(one)}, or" for one in self.also]
        if self.low is not None:
            parts.append(f"{'above' if self.low_open else 'at least'} {_number_in_words(self.low)}")
        if self.high is not None:
            parts += ["and"] * (self.low is not None)
            parts.append(f"{'below' if self.high_open else 'at most'} {_number_in_words(self.high)}")
        return " ".join(parts)


def _number_in_words(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


@dataclass(frozen=True)
class KnownSetting:
    """Description of a setting.

    Attributes:
        name: name of the setting in a recipe, and after `--` on the command line.
        group: title of the group that lists the setting.
        kinds: JSON types of the setting: boolean, integer, number, string, array, object, null.
        items: JSON type of the items, if the setting may be a list.
        default: default value; None if it depends on other settings, in which case the help explains it.
        choices: allowed values; None: any.
        bounds: range outside of which a recipe is refused.
        usual: range outside of which a run starts with a warning.
        help: help text of the library that declares the setting, or our replacement.
        note: additional help for users of this package.
        origin: library that declares the setting: spin_trl, trl or transformers.
        phases: phases that use the setting; `always` for all of them, empty if a run does not use it.
        objectives: losses that use the setting; empty if it is not specific to any loss.
        differs_by_iteration: whether the setting may be a list with one value per iteration.
        may_change: whether the setting may change when a run is continued.
        names_elsewhere: names of the setting in other tools, which are accepted with a warning.
        is_common: whether the help of `spin-trl run` explains the setting.
    """

    name: str
    group: str
    kinds: tuple[str, ...]
    items: str | None = None
    default: Any = None
    choices: tuple[str, ...] | None = None
    bounds: Range | None = None
    usual: Range | None = None
    help: str = ""
    note: str = ""
    origin: str = OURS_ORIGIN
    phases: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    differs_by_iteration: bool = False
    may_change: bool = False
    names_elsewhere: tuple[str, ...] = ()
    is_common: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> KnownSetting:
        """Restore a description from one that [`settings_as_json`] has written.

        Raises:
            TypeError, KeyError, AttributeError: if `values` is anything else.
        """
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        values["default"] = list(values["default"]) if isinstance(values["default"], tuple) else values["default"]
        for name in ("bounds", "usual"):
            if (limits := values[name]) is not None:
                values[name] = Range(**(limits | {"also": tuple(limits["also"])}))
        return cls(**values)


def settings_as_json(settings: Iterable[KnownSetting], versions: Mapping[str, str | None]) -> str:
    """Return the content of the settings file that is shipped and cached."""
    described = [dataclasses.asdict(setting) for setting in settings]
    return json.dumps({"versions": versions, "settings": described}, indent=1, ensure_ascii=False) + "\n"
