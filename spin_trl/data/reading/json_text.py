"""Parse values given as JSON text: in cells of CSV files, and in text columns of Parquet and JSON files."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Sequence
from typing import Any

from ...errors import DataError
from ...files import parse_json

MESSAGE_COLUMNS = "a list of messages in JSON"
"""Description of the expected content of text that represents a conversation."""


def loaded(text: str | bytes) -> Any:
    """Parse JSON text.

    Raises:
        ValueError: if the text is not valid JSON, or an object has a key twice, which would lose one of the values.
    """
    return parse_json(text, _object)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def value_in(value: Any, what: str, blank: Any = None) -> Any:
    """Parse a value of a row as JSON if it is text; return other values unchanged.

    Args:
        value: value from the row.
        what: subject and verb for the error message: `the tools are`.
        blank: result for text that is empty or white space.

    Raises:
        DataError: if the text is not valid JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value) if value.strip() else blank
    except ValueError as error:
        raise DataError(f"{what} not valid JSON ({error}): {value[:60]!r}") from error


def messages_of(text: str) -> list[Any]:
    """Parse messages from JSON text.

    Raises:
        ValueError: if the text is anything else.
    """
    value = loaded(text)
    if not are_objects(value):
        raise ValueError("it is not a list of objects")
    return list(value)


def holds_messages(text: str) -> bool:
    """Return whether a text holds messages as JSON, i.e. objects with a role."""
    if not text.lstrip().startswith("["):
        return False
    with contextlib.suppress(ValueError):
        return are_messages(parse_json(text))
    return False


def holds_printed_messages(text: str) -> bool:
    """Return whether a text holds messages as printed by Python, which is what pandas writes."""
    if not text.startswith("[{"):
        return False
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return "'role':" in text and text.startswith("[{'")  # printed by numpy, without commas
    return are_messages(value)


def are_messages(value: Any) -> bool:
    """Return whether a value is a list of objects with a role."""
    return are_objects(value) and all({"role", "from"} & set(part) for part in value)


def advice_on(text: str) -> str:
    """Return advice on text that should be JSON, but is not; empty if there is none."""
    if text.lstrip().startswith(("[{'", "{'")):
        return " It was printed by Python: write the column with `json.dumps`, or the data as JSONL or Parquet."
    return ""


def are_objects(value: Any) -> bool:
    """Return whether a value is a non-empty list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(part, dict) for part in value)
