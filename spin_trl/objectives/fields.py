"""Declare a setting in one place: its default, its help text, and its allowed values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any, TypeVar

Default = TypeVar("Default")


def setting(default: Default, help: str, *, choices: Sequence[str] | None = None) -> Default:
    """Return a field for a dataclass of settings, in the form that TRL's parser reads.

    Args:
        default: value if the setting is left out.
        help: help text for the command line, in whole sentences.
        choices: allowed values; None: any.
    """
    metadata: dict[str, Any] = {"help": help} | ({} if choices is None else {"choices": list(choices)})
    return field(default=default, metadata=metadata)
