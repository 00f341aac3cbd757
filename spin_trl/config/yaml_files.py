"""Read settings from a YAML file; error messages do not quote its lines."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError, SpinError
from .credentials import yaml_problem
from .yaml_text import parse_yaml

_MARKS = {
    "UTF-32": (
        codecs.BOM_UTF32_LE,
        codecs.BOM_UTF32_BE,
    ),  # checked first: one of its marks begins with one of UTF-16's
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
"""Byte order marks of other encodings."""


def read_yaml(path: Path, name: str | None = None, error: type[SpinError] = RecipeError) -> dict[str, Any]:
    """Read the settings in a file; an empty file has none.

    Args:
        path: path of the file.
        name: name of the file in messages; None: its path.
        error: class of the error to raise.

    Raises:
        SpinError: of class `error`, if the file can't be read, is not YAML, or holds anything but settings.
    """
    try:
        settings = parse_yaml(read_text(path))
    except (OSError, UnicodeError, yaml.YAMLError) as problem:
        # Drop the cause: YAML's error quotes the line, which may contain a token.
        raise error(f"{name or path} can't be read as YAML: {yaml_problem(problem)}") from None
    if settings is not None and not isinstance(settings, dict):
        raise error(f"{name or path} holds {type(settings).__name__}; expected settings, as `key: value` lines.")
    return settings or {}


def read_text(path: Path) -> str:
    """Read a UTF-8 text file.

    Raises:
        OSError: if the file can't be read.
        UnicodeError: if it has another encoding. The message names the encoding, or the first line that is not UTF-8.
    """
    content = path.read_bytes()
    for encoding, marks in _MARKS.items():
        if content.startswith(marks):
            raise UnicodeError(f"the file is encoded as {encoding}. Save it as UTF-8.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnicodeError(f"{error} (line {line}). Save it as UTF-8.") from error
