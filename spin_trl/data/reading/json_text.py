"""Values that stand in a text as JSON: in the cells of CSV files, and in text columns of Parquet and JSON files."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Sequence
from typing import Any

from ...errors import DataError
from ...files import parse_json

MESSAGE_COLUMNS = "a list of messages in JSON"
"""What a text must hold that stands for a conversation."""


def loaded(text: str | bytes) -> Any:
    """The value that a JSON text says.

    Raises:
        ValueError: the text is not valid JSON, or an object has a key twice, of which one value would be lost.
    """
    return parse_json(text, _object)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def value_in(value: Any, what: str, blank: Any = None) -> Any:
    """What a value of a row holds as JSON, if it is text. Anything else as it is.

    Args:
        value: of the row.
        what: it is, with its verb, for the message: `the tools are`.
        blank: what a text without anything but white space stands for.

    Raises:
        DataError: the text is not valid JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value) if value.strip() else blank
    except ValueError as error:
        raise DataError(f"{what} not valid JSON ({error}): {value[:60]!r}") from error


def messages_of(text: str) -> list[Any]:
    """The messages that a text holds as JSON.

    Raises:
        ValueError: it holds something else.
    """
    value = loaded(text)
    if not are_objects(value):
        raise ValueError("it holds something else")
    return list(value)


def holds_messages(text: str) -> bool:
    """Whether a text holds messages in JSON: objects that say who speaks."""
    if not text.lstrip().startswith("["):
        return False
    with contextlib.suppress(ValueError):
        return are_messages(parse_json(text))
    return False


def holds_printed_messages(text: str) -> bool:
    """Whether a text holds messages as Python prints them: what pandas writes."""
    if not text.startswith("[{"):
        return False
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return "'role':" in text and text.startswith("[{'")  # as numpy prints them, without commas
    return are_messages(value)


def are_messages(value: Any) -> bool:
    """Whether a value is a list of objects that say who speaks."""
    return are_objects(value) and all({"role", "from"} & set(part) for part in value)


def advice_on(text: str) -> str:
    """What to do about a text that should be JSON, and is not; nothing, where that is not known."""
    if text.lstrip().startswith(("[{'", "{'")):
        return " This is how Python prints it: write the column with `json.dumps`, or the data as JSONL or Parquet."
    return ""


def are_objects(value: Any) -> bool:
    """Whether a value is a list of objects, at least one."""
    return isinstance(value, list) and bool(value) and all(isinstance(part, dict) for part in value)
