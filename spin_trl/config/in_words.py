"""What is known of a setting as words: for the help, for `spin-trl settings`, and for the pages of the reference."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .known import ALWAYS, OURS_ORIGIN, KnownSetting

_KIND_IN_WORDS = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "object": "mapping",
}
_SEVERAL_IN_WORDS = {"boolean": "true or false", "integer": "whole numbers", "number": "numbers", "string": "texts"}

PHASES_IN_WORDS = {
    "prepare": "preparing the data",
    "start": "making the start",
    "generate": "generate",
    "train": "train",
    "evaluate": "evaluate",
    "baseline": "baseline",
    "decide": "the decision after an iteration",
    "push": "pushing to the Hub",
    ALWAYS: "the whole run",
}
"""When settings are looked at."""

_END_OF_SENTENCE = re.compile(r"(?<!e\.g\.)(?<!i\.e\.)(?<=[.!?])\s+(?=[A-Z`'\d])")


def first_sentence(text: str) -> str:
    """The first sentence of a help."""
    return _END_OF_SENTENCE.split(text, maxsplit=1)[0]


def kind_in_words(setting: KnownSetting, *, choices: bool = True) -> str:
    """The type of a setting: `number, or a list with one for each iteration`.

    Args:
        setting: that is described.
        choices: name the values that it may have.
    """
    if setting.choices and choices:
        named = ", ".join(setting.choices)
        words = f"one or several of {named}" if "array" in setting.kinds else f"one of {named}"
        return f"{words}, or true or false" if "boolean" in setting.kinds else words
    kinds = [kind for kind in setting.kinds if kind != "null"]
    if "array" in kinds:
        kinds = [kind for kind in kinds if kind != setting.items]  # a single one counts as a list
    words = " or ".join(
        f"list of {_SEVERAL_IN_WORDS[str(setting.items)]}" if kind == "array" else _KIND_IN_WORDS[kind]
        for kind in kinds
    )
    return f"{words}, or a list with one for each iteration" if setting.differs_by_iteration else words


def default_in_words(setting: KnownSetting) -> str:
    """The default as a recipe would have it; empty where the help says what holds if the setting is left out."""
    value = setting.default
    if value is None or value in ("", []):
        return ""
    if isinstance(value, list):
        return f"[{', '.join(map(_as_recipe_has_it, value))}]"
    return _as_recipe_has_it(value)


def _as_recipe_has_it(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def help_of(setting: KnownSetting) -> str:
    """All that is said of what a setting is for."""
    return " ".join(filter(None, [setting.help, setting.note]))


def phases_in_words(setting: KnownSetting) -> str:
    """When a setting is looked at."""
    return ", ".join(PHASES_IN_WORDS[phase] for phase in setting.phases) or "nothing in a run"


def objectives_in_words(setting: KnownSetting, settings: Iterable[KnownSetting]) -> str:
    """The objectives that look at a setting; empty if it has to do with none in particular.

    Args:
        setting: that is described.
        settings: all of them, among which `loss_type` has every objective.
    """
    every = next((one.choices or () for one in settings if one.name == "loss_type"), ())
    others = [name for name in every if name not in setting.objectives]
    if not setting.objectives or len(others) > len(setting.objectives):
        return ", ".join(setting.objectives)
    return f"all but {', '.join(others)}"


def facts_of(setting: KnownSetting, settings: Iterable[KnownSetting]) -> dict[str, str]:
    """What is known of a setting beside its help, by what it is called."""
    usual = "" if setting.usual is None else str(setting.usual)
    found: Mapping[str, str] = {
        "type": kind_in_words(setting),
        "default": default_in_words(setting),
        "allowed": "" if setting.bounds is None else str(setting.bounds),
        "usual": f"{usual} ({setting.usual.why})" if setting.usual is not None and setting.usual.why else usual,
        "objectives": objectives_in_words(setting, settings),
        "used by": phases_in_words(setting),
        "continued run": "may change" if setting.may_change else "stays as it was",
        "declared by": {OURS_ORIGIN: "spin_trl", "trl": "TRL", "transformers": "transformers"}[setting.origin],
        "also called": ", ".join(setting.names_elsewhere),
    }
    return {name: text for name, text in found.items() if text}
