"""Describe every setting of a recipe from the code: its type, default, choices, bounds, and the phases that use it.

This module needs TRL. `listed.py` reads its results without importing TRL.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from ...objectives import registry
from ..bounds import OF_RECIPES, TRL_SETTINGS, USUAL
from ..checks import Bounds, Choices, declared
from ..credentials import is_name
from ..kinds import types_in
from ..loop import PER_ITERATION
from ..other_names import SAME
from ..plain import plain
from ..recipe import classes_of_settings, kinds_of_settings
from ..traits import FREE
from .known import ALWAYS, OURS_ORIGIN, KnownSetting, Range

_GROUPS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("groups.yaml").read_text(encoding="utf-8"))
_LAST_GROUP = {"title": "Further settings of TRL and transformers", "phases": ["train"]}

_JSON_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", type(None): "null"}
"""JSON names of Python's types."""


def describe() -> list[KnownSetting]:
    """Return all settings that a recipe may have, in the order of `groups.yaml`."""
    kinds, classes = kinds_of_settings(), classes_of_settings()
    found = {
        name: _known_of(name, kind, kinds[name])
        for name, kind in classes.items()
        if not is_name(name) and _json_kinds(kinds[name]) != ["null"]
    }
    found |= {name: _of_recipes_alone(name, text) for name, text in _GROUPS["more"].items()}
    order = [name for group in _GROUPS["groups"] for name in group["settings"]]
    return [found[name] for name in order if name in found] + [found[name] for name in found if name not in order]


def _known_of(name: str, owner: type[Any], kind: Any) -> KnownSetting:
    (field,) = (known for known in dataclasses.fields(owner) if known.name == name)
    default = field.default_factory() if callable(field.default_factory) else field.default
    group, limits = _group_of(name), _bounds_of(name, owner)
    json_kinds = _json_kinds(kind)
    return KnownSetting(
        name=name,
        group=group["title"],
        kinds=tuple(json_kinds),
        items=_kind_of_items(kind),
        default=plain(default),
        choices=_choices_of(name, field, kind),
        bounds=None if limits is None else Range.of(limits),
        usual=Range.of(USUAL[name]) if name in USUAL else None,
        help=_GROUPS["instead"].get(name) or _in_plain_text(str(field.metadata.get("help", ""))),
        note=_GROUPS["notes"].get(name, ""),
        origin=_origin_of(name, owner),
        phases=tuple(group["phases"]),
        objectives=tuple(_objectives_with(name)),
        differs_by_iteration=name in PER_ITERATION,
        may_change=name in FREE,
        names_elsewhere=tuple(sorted(other for other, ours in SAME.items() if ours == name)),
        is_common=name in group.get("often", []),
    )


def _of_recipes_alone(name: str, text: str) -> KnownSetting:
    group = _group_of(name)
    return KnownSetting(
        name, group["title"], ("object", "null"), help=text, phases=(ALWAYS,), is_common=name in group.get("often", [])
    )


def _group_of(name: str) -> dict[str, Any]:
    groups: Iterable[dict[str, Any]] = _GROUPS["groups"]
    return next((group for group in groups if name in group["settings"]), _LAST_GROUP)


def _origin_of(name: str, owner: type[Any]) -> str:
    """Return the library that first declares a field: `spin_trl`, `trl` or `transformers`. TRL overrides some defaults."""
    declaring = [kind for kind in owner.__mro__ if name in inspect.get_annotations(kind)]
    origin = declaring[-1].__module__.partition(".")[0]
    return OURS_ORIGIN if origin == __name__.partition(".")[0] else origin


def _bounds_of(name: str, owner: type[Any]) -> Bounds | None:
    """Return the bounds outside of which a recipe is refused."""
    own = declared(owner).get(name)
    if isinstance(own, Bounds):
        return own
    for objective in registry.LOSS_TYPES.values():
        if name in vars(objective.published) and name in registry.OWN_SETTINGS:
            is_number = any(kind in ("number", "array") for kind in _json_kinds(kinds_of_settings()[name]))
            low = objective.least.get(name, 0)
            return Bounds(low, low_open=name not in objective.least) if is_number and low > -float("inf") else None
    allowed = {**TRL_SETTINGS, **OF_RECIPES}.get(name)
    return allowed if isinstance(allowed, Bounds) else None


def _choices_of(name: str, field: dataclasses.Field[Any], kind: Any) -> tuple[str, ...] | None:
    if name == "loss_type" and (theirs := registry.losses_of_trl()):
        return tuple(dict.fromkeys([*registry.LOSS_TYPES, *theirs]))
    if field.metadata.get("choices"):
        return tuple(field.metadata["choices"])
    allowed = TRL_SETTINGS.get(name)
    if isinstance(allowed, Choices):
        return tuple(allowed)
    for option in types_in(kind):
        if isinstance(option, type) and issubclass(option, enum.Enum):
            return tuple(known.value for known in option)
    return None


def _objectives_with(name: str) -> list[str]:
    """Return the losses that use a setting; empty for a setting that is unrelated to losses or applies to all of them."""
    losses = list(dict.fromkeys([*registry.LOSS_TYPES, *registry.losses_of_trl()]))
    if name in registry.OWN_SETTINGS:
        return [loss for loss in losses if name in registry.own_settings([loss])]
    if name in registry.meaningless(registry.OURS):
        return [loss for loss in losses if name not in registry.meaningless([loss])]
    return []


def _json_kinds(kind: Any) -> list[str]:
    """Return the JSON types of a setting, without duplicates."""
    return list(dict.fromkeys(filter(None, map(_json_kind, types_in(kind)))))


def _json_kind(option: Any) -> str | None:
    """Return the JSON name of a type; None if no recipe can hold values of it."""
    origin = get_origin(option)
    if origin is Literal:
        return _JSON_KINDS[type(get_args(option)[0])]
    if origin is not None:
        return {list: "array", dict: "object"}[origin]
    if isinstance(option, type) and issubclass(option, enum.Enum):
        return "string"
    return _JSON_KINDS.get(option)


def _kind_of_items(kind: Any) -> str | None:
    """Return the JSON type of a list's items; None if the setting is not a list."""
    lists = [option for option in types_in(kind) if get_origin(option) is list]
    return _json_kind(get_args(lists[0])[0]) if lists else None


def _in_plain_text(text: str) -> str:
    """Return help text on one line, without argparse and Sphinx markup."""
    text = text.replace("%%", "%").replace("``", "`")
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    text = re.sub(r"\[`~?(?:\w+\.)*(\w+)`\]", r"`\1`", text)
    text = re.sub(r"\[([^\]]*)\]\((https?://[^)]*)\)", r"\1 (\2)", text)
    return " ".join(text.split())
