"""Names of settings in other tools: earlier names in TRL and transformers, and those of axolotl and LLaMA-Factory.

Users who bring a recipe from another tool should not have to guess. A name with the same meaning is accepted with a warning;
a name with a similar meaning is refused, and the message gives the name used here and the difference. The names are listed
in `other_names.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .arguments import options_of

_TABLE: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

SAME: Mapping[str, str] = {other: ours for ours, others in _TABLE["same"].items() for other in others}
"""Settings with exactly the same meaning, value for value, by the other tool's name."""

BY_VALUE: Mapping[str, tuple[str, Mapping[Any, Mapping[str, Any]]]] = {
    other: (found["here"], found["values"]) for other, found in _TABLE["by_value"].items()
}
"""Settings whose meaning depends on the value, by the other tool's name: the setting's name and what each value sets."""

CLOSE: Mapping[str, tuple[str, str]] = {
    other: (found["here"], found.get("what", "")) for found in _TABLE["close"] for other in found["names"]
}
"""Settings with a similar meaning, by the other tool's name: the setting's name and a hint."""


def translated(name: str, value: Any) -> dict[str, Any] | None:
    """Translate a setting of another tool into settings with the same meaning; None if there are none.

    Args:
        name: name in the other tool.
        value: value from a YAML file, or text from a command line.
    """
    if name in SAME:
        return {SAME[name]: value}
    if name == "warmup_ratio":
        # A share of all steps is the same number here, as long as it can't be mistaken for a number of steps.
        share = _as_number(value)
        return {"warmup_steps": value} if share is not None and 0 <= share < 1 else None
    if name in BY_VALUE:
        if isinstance(value, str):
            value = {"true": True, "false": False, "none": None}.get(value.lower(), value)
        found = BY_VALUE[name][1].get(value) if isinstance(value, str | bool | None) else None
        return None if found is None else dict(found)
    return None


def _as_number(value: Any) -> float | None:
    """Return a number from a YAML file (where `1e-1` is text) or a command line; None if it is not a number."""
    try:
        return float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except ValueError:
        return None


def said_of(name: str, *, prefix: str = "") -> str | None:
    """Return the end of a message that gives the name here of another tool's setting; None if the name is not known.

    Args:
        name: name in the other tool.
        prefix: text that the user writes before a setting's name, such as `--`.
    """
    ours, what = CLOSE.get(name, (SAME.get(name), ""))
    if name in BY_VALUE:
        ours = BY_VALUE[name][0]
    return f"; use {prefix + ours!r} instead{f' ({what})' if what else ''}." if ours else None


def _in_words(name: str, ours: Mapping[str, Any]) -> str:
    """Describe what a renamed setting has become."""
    now = SAME.get(name) or ", ".join(f"{other}: {value}" for other, value in ours.items())
    return f"{name} is read as {now}" if now else f"{name} is not needed"


def translate(settings: Mapping[str, Any], known: Callable[[str], bool]) -> tuple[dict[str, Any], list[str]]:
    """Rename settings that have other tools' names.

    Args:
        settings: settings by name.
        known: returns whether a name is a setting here.

    Returns:
        The settings, and a description of each renamed one, like `torch_dtype is read as dtype`.

    Raises:
        ValueError: if a setting is given under both names with different values.
    """
    found = {name: value for name, value in settings.items() if known(name)}
    renamed = []
    for name, value in settings.items():
        ours = None if known(name) else translated(name, value)
        if ours is None:
            found.setdefault(name, value)
            continue
        for other, becomes in ours.items():
            if other in found and found[other] != becomes:
                raise ValueError(
                    f"`{name}` is called `{other}` here, and both are set: {becomes!r} and {found[other]!r}. Remove one."
                )
            found[other] = becomes
        renamed.append(_in_words(name, ours))
    return found, renamed


def translate_arguments(arguments: list[str], known: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Rename command-line arguments that have other tools' names; return them with descriptions as in [`translate`]."""
    found: list[str] = []
    renamed: list[str] = []
    for option in options_of(arguments):
        value, *more = option.values or ["true"]
        ours = None if known(option.name) else translated(option.name, value)
        if ours is None:
            found += option.arguments
            continue
        if option.name in SAME:  # which may take several values
            name, *behind = option.arguments
            found += [name.replace(option.name, SAME[option.name], 1), *behind]
        else:
            found += [*(f"--{other}={becomes}" for other, becomes in ours.items()), *more]
        renamed.append(_in_words(option.name, ours))
    return found, renamed
