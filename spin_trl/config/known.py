"""What is known of a setting, as data: the help, the schema and the pages of the reference are made of it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .checks import Bounds

ALWAYS = "always"
"""Instead of a phase: a setting that all phases go by."""

OURS_ORIGIN = "spin_trl"


@dataclass(frozen=True)
class Range:
    """Between which numbers a setting lies, as [`Bounds`] has it; None is no bound."""

    low: float | None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    also: tuple[float, ...] = ()
    why: str = ""

    @classmethod
    def of(cls, bounds: Bounds) -> Range:
        """The same as JSON can hold it."""
        low, high = (number if math.isfinite(number) else None for number in (bounds.low, bounds.high))
        low_open, high_open = bounds.low_open and low is not None, bounds.high_open and high is not None
        return cls(low, high, low_open, high_open, bounds.also, bounds.why)

    def __str__(self) -> str:
        parts = [f"{_number_in_words(number)}, or" for number in self.also]
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
    """What is known of a setting.

    Attributes:
        name: in a recipe, and behind `--` on the command line.
        group: title of the group that it is listed in.
        kinds: its types as JSON calls them: boolean, integer, number, string, array, object, null.
        items: type of the parts, if it may be a list.
        default: its value if it is left out; None where it depends on others, which the help says.
        choices: values that it may have; None: any.
        bounds: outside of them a recipe is refused.
        usual: outside of them it is played with a warning.
        help: sentences that say what it is for, as its library has them.
        note: what a user of this package has to know besides.
        origin: who declares it: spin_trl, trl or transformers.
        phases: that go by it; `always` for all, none where a run has no use for it.
        objectives: losses that look at it; empty if it has to do with no loss in particular.
        differs_by_iteration: whether it may be a list with one value an iteration.
        may_change: whether it may change when a run is continued.
        names_elsewhere: what other tools call it. These names are accepted, with a warning.
        is_common: whether the help of `spin-trl run` explains it.
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
        """From what [`settings_as_json`] has written.

        Raises:
            TypeError, KeyError, AttributeError: it is something else.
        """
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        values["default"] = list(values["default"]) if isinstance(values["default"], tuple) else values["default"]
        for name in ("bounds", "usual"):
            if (limits := values[name]) is not None:
                values[name] = Range(**(limits | {"also": tuple(limits["also"])}))
        return cls(**values)


def settings_as_json(settings: Iterable[KnownSetting], versions: Mapping[str, str | None]) -> str:
    """The content of a file of settings, as it is shipped and cached."""
    described = [dataclasses.asdict(setting) for setting in settings]
    return json.dumps({"versions": versions, "settings": described}, indent=1, ensure_ascii=False) + "\n"
