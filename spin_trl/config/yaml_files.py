"""Reads settings from a YAML file, and says what is wrong with one without repeating its lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError, SpinError
from .credentials import yaml_problem

YAML_FAILS = (OSError, yaml.YAMLError, ValueError, LookupError, ArithmeticError, TypeError, RecursionError)
"""What reading YAML raises: YAML's own errors, those of the functions that make a value of a text (numbers of thousands of
digits, dates that there are not, characters beyond Unicode), and Python's where a value is nested too deeply."""


def read_yaml(path: Path, name: str | None = None, error: type[SpinError] = RecipeError) -> dict[str, Any]:
    """The settings that a file holds; an empty one holds none.

    Args:
        path: of the file.
        name: what a message calls it; None: its path.
        error: kind of the error.

    Raises:
        SpinError: of that kind: it can't be read, is no YAML, or holds anything but settings.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except YAML_FAILS as problem:
        # Without its cause: YAML's error quotes the line, and a token may stand in it.
        raise error(f"{name or path} can't be read as YAML: {yaml_problem(problem)}") from None
    if settings is not None and not isinstance(settings, dict):
        raise error(f"{name or path} holds {type(settings).__name__}; expected settings, as `key: value` lines.")
    return settings or {}
