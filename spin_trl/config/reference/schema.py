"""The JSON schema of a recipe, which editors use to complete names, show help, and mark errors.

It covers errors in a single setting. Contradictions between settings are only found when the recipe is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..traits import DPO_PREFIX, SFT_PREFIX
from .known import KnownSetting, Range

_FLOAT = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][+-]?[0-9]+$"
"""Pattern of numbers like `5e-7`, which are text in YAML 1.1 but numbers in a recipe."""


def schema_of(settings: Iterable[KnownSetting]) -> dict[str, Any]:
    """Return the schema of a recipe with these settings, in draft 7, which editors support."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of spin-trl",
        "type": "object",
        "additionalProperties": False,
        "properties": {setting.name: _property(setting) for setting in settings},
        "patternProperties": {
            f"^{SFT_PREFIX}": {"description": "A setting of TRL's SFTConfig, for `start: sft`."},
            f"^{DPO_PREFIX}": {"description": "A setting of TRL's DPOConfig, for `then_dpo`."},
        },
    }


def _property(setting: KnownSetting) -> dict[str, Any]:
    scalar = _scalar(setting, [kind for kind in setting.kinds if kind not in ("array", "object")])
    options = [scalar] if scalar else []
    if "object" in setting.kinds:
        options.append({"type": "object"})
    if "array" in setting.kinds:
        one = _scalar(setting, [str(setting.items)])
        # A single value counts as a list with one item.
        options = [one, {"type": "array", "items": one}] + ([{"type": "null"}] if "null" in setting.kinds else [])
        if "boolean" in setting.kinds:
            options.append({"type": "boolean"})
    if setting.differs_by_iteration:
        options.append({"type": "array", "items": scalar, "minItems": 1, "description": "One value per iteration."})
    found = options[0] if len(options) == 1 else {"anyOf": options}
    words = " ".join(filter(None, [setting.help, setting.note]))
    return {"description": words, **({} if setting.default is None else {"default": setting.default}), **found}


def _scalar(setting: KnownSetting, kinds: list[str]) -> dict[str, Any]:
    """Return the schema of a scalar value; empty if the setting can't be a scalar."""
    if not kinds:
        return {}
    if setting.choices:
        # YAML 1.1 reads `no` as false.
        more: list[Any] = [False] * ("no" in setting.choices or "boolean" in kinds) + [True] * ("boolean" in kinds)
        return {"enum": [*setting.choices, *more, *([None] if "null" in kinds else [])]}
    types = list(kinds)
    found: dict[str, Any] = {}
    if "number" in kinds and "string" not in kinds:
        types.append("string")
        found["pattern"] = _FLOAT
    limits = _limits(setting.bounds)
    if setting.bounds is not None and setting.bounds.also:
        also = list(setting.bounds.also)
        if any(isinstance(one, str) for one in also):  # the only texts that are allowed
            types.remove("string")
        return {"anyOf": [{"type": _types(types), **found, **limits}, {"enum": also}]}
    return {"type": _types(types), **found, **limits}


def _types(types: list[str]) -> str | list[str]:
    return types[0] if len(types) == 1 else types


def _limits(bounds: Range | None) -> dict[str, float]:
    """Return bounds as schema keywords, which apply to numbers and ignore text and null."""
    if bounds is None:
        return {}
    low = {} if bounds.low is None else {"exclusiveMinimum" if bounds.low_open else "minimum": bounds.low}
    high = {} if bounds.high is None else {"exclusiveMaximum" if bounds.high_open else "maximum": bounds.high}
    return low | high
