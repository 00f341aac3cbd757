"""What other tools call the settings of a recipe: TRL's and transformers' earlier names, axolotl's and LLaMA-Factory's.

Who brings a recipe from there should not have to guess. A name that means the same is accepted, and said; one that means
something close is refused with the name here, and what is different. The names stand in `other_names.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .arguments import options_of

_TABLE: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))

SAME: Mapping[str, str] = {other: ours for ours, others in _TABLE["same"].items() for other in others}
"""By the name elsewhere: the setting's name. They mean the same, value for value."""

BY_VALUE: Mapping[str, tuple[str, Mapping[Any, Mapping[str, Any]]]] = {
    other: (found["here"], found["values"]) for other, found in _TABLE["by_value"].items()
}
"""Names that mean a setting here by their value: the setting's name, and what each value sets."""

CLOSE: Mapping[str, tuple[str, str]] = {
    other: (found["here"], found.get("what", "")) for found in _TABLE["close"] for other in found["names"]
}
"""By the name elsewhere: the setting's name, and what it is."""


def translated(name: str, value: Any) -> dict[str, Any] | None:
    """A setting of another tool as settings here, where they mean the same; None where they don't.

    Args:
        name: as the other tool has it.
        value: of a YAML file, or text of a command line.
    """
    if name in SAME:
        return {SAME[name]: value}
    if name == "warmup_ratio":
        # A share of all steps is no other number here, as long as it is not taken for a number of steps.
        share = _as_number(value)
        return {"warmup_steps": value} if share is not None and 0 <= share < 1 else None
    if name in BY_VALUE:
        if isinstance(value, str):
            value = {"true": True, "false": False, "none": None}.get(value.lower(), value)
        found = BY_VALUE[name][1].get(value) if isinstance(value, str | bool | None) else None
        return None if found is None else dict(found)
    return None


def _as_number(value: Any) -> float | None:
    """A number of a YAML file (which takes `1e-1` for text), or of a command line."""
    try:
        return float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except ValueError:
        return None


def said_of(name: str) -> str | None:
    """What to say of a setting that is called otherwise here, as the end of a message; None if no such name is known."""
    ours, what = CLOSE.get(name, (SAME.get(name), ""))
    if name in BY_VALUE:
        ours = BY_VALUE[name][0]
    return f"; here it is {ours!r}{f' ({what})' if what else ''}." if ours else None


def _in_words(name: str, ours: Mapping[str, Any]) -> str:
    """What a renamed setting is now."""
    now = SAME.get(name) or ", ".join(f"{other}: {value}" for other, value in ours.items()) or "not needed"
    return f"{name} is {now}"


def translate(settings: Mapping[str, Any], known: Callable[[str], bool]) -> tuple[dict[str, Any], list[str]]:
    """Settings with the names that they have here.

    Args:
        settings: by name.
        known: whether a name is a setting here.

    Returns:
        The settings, and of each that was renamed, what it is now, like `torch_dtype is dtype`.

    Raises:
        ValueError: a setting stands there by both names.
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
                raise ValueError(f"`{name}` is `{other}` here, which is there, too: {becomes!r} and {found[other]!r}.")
            found[other] = becomes
        renamed.append(_in_words(name, ours))
    return found, renamed


def translate_arguments(arguments: list[str], known: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Command-line arguments with the names that their settings have here, and what was renamed."""
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
