"""A setting, declared once: its default, what it is for, and what it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any, TypeVar

Default = TypeVar("Default")


def setting(default: Default, help: str, *, choices: Sequence[str] | None = None) -> Default:
    """A field of a dataclass of settings, as TRL's parser reads it.

    Args:
        default: its value where it is left out.
        help: whole sentences for the command line.
        choices: values that it may have; None: any.
    """
    metadata: dict[str, Any] = {"help": help} | ({} if choices is None else {"choices": list(choices)})
    return field(default=default, metadata=metadata)
