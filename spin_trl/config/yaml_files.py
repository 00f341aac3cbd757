"""Reads settings from a YAML file, and says what is wrong with one without repeating its lines."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError, SpinError
from .credentials import yaml_problem
from .yaml_text import parse_yaml

_MARKS = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),  # first: one of its marks begins with one of UTF-16's
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
"""What files in other encodings begin with."""


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
        settings = parse_yaml(read_text(path))
    except (OSError, UnicodeError, yaml.YAMLError) as problem:
        # Without its cause: YAML's error quotes the line, and a token may stand in it.
        raise error(f"{name or path} can't be read as YAML: {yaml_problem(problem)}") from None
    if settings is not None and not isinstance(settings, dict):
        raise error(f"{name or path} holds {type(settings).__name__}; expected settings, as `key: value` lines.")
    return settings or {}


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError: it can't be read.
        UnicodeError: it is in another encoding. The message says in which, or in which line that shows.
    """
    content = path.read_bytes()
    for encoding, marks in _MARKS.items():
        if content.startswith(marks):
            raise UnicodeError(f"it is in {encoding}. Save it as UTF-8.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnicodeError(f"{error} (line {line}). Save it as UTF-8.") from error
