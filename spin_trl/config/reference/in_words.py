"""Descriptions of settings in words, for the help, `spin-trl settings` and the reference pages."""

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
    "start": "building or training the start",
    "generate": "generate",
    "train": "train",
    "evaluate": "evaluate",
    "baseline": "baseline",
    "dpo": "DPO at the end of a run",
    "test": "the test set at the end of a run",
    "decide": "the decision after an iteration",
    "push": "pushing to the Hub",
    ALWAYS: "the whole run",
}
"""Phases in which settings are used, in words."""

_END_OF_SENTENCE = re.compile(r"(?<!e\.g\.)(?<!i\.e\.)(?<=[.!?])\s+(?=[A-Z`'\d])")


def first_sentence(text: str) -> str:
    """Return the first sentence of a help text."""
    return _END_OF_SENTENCE.split(text, maxsplit=1)[0]


def kind_in_words(setting: KnownSetting, *, choices: bool = True) -> str:
    """Return the type of a setting in words: `number, or a list with one for each iteration`.

    Args:
        setting: setting to describe.
        choices: whether to list the allowed values.
    """
    if setting.choices and choices:
        named = ", ".join(setting.choices)
        words = f"one or several of {named}" if "array" in setting.kinds else f"one of {named}"
        return f"{words}, or true or false" if "boolean" in setting.kinds else words
    kinds = [kind for kind in setting.kinds if kind != "null"]
    if "array" in kinds:
        kinds = [kind for kind in kinds if kind != setting.items]  # a single value counts as a list
    words = " or ".join(
        f"list of {_SEVERAL_IN_WORDS[str(setting.items)]}" if kind == "array" else _KIND_IN_WORDS[kind]
        for kind in kinds
    )
    return f"{words}, or a list with one for each iteration" if setting.differs_by_iteration else words


def default_in_words(setting: KnownSetting) -> str:
    """Return the default as written in a recipe; empty if the help text explains the default."""
    value = setting.default
    if value is None or value in ("", []):
        return ""
    if isinstance(value, list):
        return f"[{', '.join(map(_as_recipe_has_it, value))}]"
    return _as_recipe_has_it(value)


def _as_recipe_has_it(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def help_of(setting: KnownSetting) -> str:
    """Return the whole help text of a setting, including its note."""
    return " ".join(filter(None, [setting.help, setting.note]))


def phases_in_words(setting: KnownSetting) -> str:
    """Return the phases that use a setting, in words."""
    return ", ".join(PHASES_IN_WORDS[phase] for phase in setting.phases) or "nothing in a run"


def objectives_in_words(setting: KnownSetting, settings: Iterable[KnownSetting]) -> str:
    """Return the objectives that use a setting; empty if it is not specific to any objective.

    Args:
        setting: setting to describe.
        settings: all settings; `loss_type` among them lists every objective.
    """
    every = next((one.choices or () for one in settings if one.name == "loss_type"), ())
    others = [name for name in every if name not in setting.objectives]
    if not setting.objectives or len(others) > len(setting.objectives):
        return ", ".join(setting.objectives)
    return f"all but {', '.join(others)}"


def facts_of(setting: KnownSetting, settings: Iterable[KnownSetting]) -> dict[str, str]:
    """Return the facts about a setting other than its help text, by label."""
    usual = "" if setting.usual is None else str(setting.usual)
    found: Mapping[str, str] = {
        "type": kind_in_words(setting),
        "default": default_in_words(setting),
        "allowed": "" if setting.bounds is None else str(setting.bounds),
        "usual": f"{usual} ({setting.usual.why})" if setting.usual is not None and setting.usual.why else usual,
        "objectives": objectives_in_words(setting, settings),
        "used by": phases_in_words(setting),
        "resumed run": "may change" if setting.may_change else "must not change",
        "declared by": {OURS_ORIGIN: "spin_trl", "trl": "TRL", "transformers": "transformers"}[setting.origin],
        "also called": ", ".join(setting.names_elsewhere),
    }
    return {name: text for name, text in found.items() if text}
