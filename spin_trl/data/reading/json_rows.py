"""JSON and JSON lines whose strings stay strings: Arrow's own reader makes times of those that look like dates.

All rows are read to learn what shape the values have, then again to write them. A place whose values differ in shape (text
here and a list there, objects with other keys) is stored as JSON, so that nothing is filled in and nothing gets lost.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from ...errors import DataError
from ..columns import SFT_COLUMNS
from .exact_json import ExactJson
from .json_text import are_messages, are_objects, loaded
from .kept import kept, with_progress
from .lines import BadLines, byte_lines, decoded

ROW_COLUMNS = frozenset((*SFT_COLUMNS, "chosen", "rejected", "real", "generated", "instruction", "output", "history"))
"""Columns that say that an object is a row, and not a list of rows under one key."""

_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_PRINTED = ("[{'", "{'")
_KINDS = {str: "string", dict: "object", list: "list", bool: "bool", float: "float64"}
_NUMBERS = {"int64", "float64"}
DEEPEST_OF_ARROW = 20
"""Lists and objects within each other that are stored as such. Arrow reads no file with more than 64."""

DEEPEST = 100
"""Lists and objects within each other in a row. Libraries whose functions call themselves for each come to their end."""

_INTEGERS = range(-(2**63), 2**63)


class ValueShape:
    """What the values at one place of all rows look like.

    Args:
        is_row: the place is that of a row, where keys may be missing: they are columns.
    """

    __slots__ = ("differs", "fields", "is_row", "items", "kinds")

    def __init__(self, *, is_row: bool = False) -> None:
        self.is_row = is_row
        self.kinds: set[str] = set()
        self.items: ValueShape | None = None
        self.fields: defaultdict[str, ValueShape] = defaultdict(ValueShape)
        self.differs = False  # not all objects have the same keys

    def add(self, value: Any) -> None:
        """Take a value into account."""
        if value is None or self.is_settled():
            return
        is_first = not self.kinds
        self.kinds.add(_kind_in_arrow(value))
        if isinstance(value, list):
            self.items = self.items or ValueShape()
            for part in value:
                self.items.add(part)
        elif isinstance(value, dict):
            if is_first:
                self.differs = any("\0" in name for name in value)  # no name of Arrow's
            elif value.keys() != self.fields.keys():
                self.differs = True
            if not self.is_settled():
                for name, part in value.items():
                    self.fields[name].add(part)

    def is_settled(self) -> bool:
        """Whether it is known already that these values are stored as JSON. Keys may be as many as rows then."""
        return (self.differs and not self.is_row) or (len(self.kinds) > 1 and self.kinds != _NUMBERS)

    def feature(self, depth: int = 0) -> Any:
        """What values like these are stored as; None if they differ so much, or lie so deep, that what they stand in must be
        JSON.

        Args:
            depth: of lists and objects around them.
        """
        if not self.kinds:
            return Value("null")
        if len(self.kinds) > 1 or "large" in self.kinds:
            return None
        (kind,) = self.kinds
        if depth > DEEPEST_OF_ARROW and kind in ("list", "object"):
            return None
        if kind == "list":
            feature = (self.items or ValueShape()).feature(depth + 1)
            return ExactJson() if feature is None else List(feature)
        if kind == "object":
            parts = {name: shape.feature(depth + 1) for name, shape in self.fields.items()}
            return ExactJson() if self.differs or not parts or None in parts.values() else parts
        return Value(kind)


def _kind_in_arrow(value: Any) -> str:
    if type(value) is int:
        return "int64" if value in _INTEGERS else "large"
    return _KINDS[type(value)]


def features_of(shape: ValueShape) -> Features:
    """The features of rows. A column of numbers may hold integers and others; whatever else differs is stored as JSON."""
    features: dict[str, Any] = {}
    for name, column in shape.fields.items():
        feature = Value("float64") if column.kinds == _NUMBERS else column.feature()
        features[name] = ExactJson() if feature is None else feature
    return Features(features)


def read_json_rows(files: Sequence[Path], split: str, mapping: Mapping[str, str], *, bad_as_rows: bool) -> Dataset:
    """Read files of JSON or JSON lines, one after the other.

    Args:
        files: which.
        split: the list that is taken, where an object holds several.
        mapping: what columns will be renamed to.
        bad_as_rows: as in [`BadLines`].

    Raises:
        DataError: of [`json_rows`].
    """
    known = frozenset(mapping)

    def rows() -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(json_rows(one, split, known, bad_as_rows=bad_as_rows) for one in files)

    def read() -> tuple[Features, Iterator[dict[str, Any]]]:
        shape = ValueShape(is_row=True)
        for row in with_progress(rows(), "Checking rows"):
            shape.add(row)
        return features_of(shape), rows()

    return kept(files, f"json {split} {sorted(known)} {bad_as_rows}", read)


def json_rows(path: Path, split: str, known: frozenset[str], *, bad_as_rows: bool) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines, of a list of objects, or of an object with one such list in it.

    Args:
        path: of the file. It may be compressed.
        split: the list that is taken, where an object holds several.
        known: names of columns that say that an object is a row, besides the usual ones.
        bad_as_rows: as in [`BadLines`].

    Raises:
        DataError: names the file, and the lines that are not valid JSON or no objects.
    """
    known |= ROW_COLUMNS
    bad = BadLines(path, as_rows=bad_as_rows)
    for where, value, shown in _lines_of(path) if _is_lines(path, known) else _items_of(path, split, known):
        if isinstance(value, dict):
            yield _without_nan(value)
        elif isinstance(value, Exception):
            yield from bad.rows(where, f"{_reason_of_json(value)}: {shown}.{_advice_on_json(value)}")
        else:
            # A list of messages is a conversation that lacks its column's name.
            advice = '. Write it as {"messages": [...]}' if are_messages(value) else ""
            yield from bad.rows(where, f"expected an object like {{...}}, found {shown}{advice}")
    bad.refuse()


def _lines_of(path: Path) -> Iterator[tuple[str, Any, str]]:
    """The place of each line, its value or the error that says why it has none, and its beginning."""
    is_alone = sum(1 for _ in itertools.islice(filter(bytes.strip, byte_lines(path)), 2)) == 1
    for number, line in enumerate(byte_lines(path), start=1):
        if not line.strip():
            continue
        value = _value_or_error(line)
        if number == 1 and is_alone:
            _refuse_columns(path, value)
        yield f"line {number}", value, repr(line[:60])


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """A row in which NaN is null: in Python, it is what pandas has where there is no value."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def _reason_of_json(error: Exception) -> str:
    """Why a line can't be read."""
    return str(error) if str(error).startswith("not UTF-8") else f"not valid JSON ({error})"


def _advice_on_json(error: Exception) -> str:
    """What to do about a text that is not valid JSON, where that is known."""
    if not isinstance(error, json.JSONDecodeError):
        return ""
    rest = error.doc[error.pos :].lstrip() if error.msg == "Extra data" else ""
    if rest.startswith(","):
        return " A comma stands behind the object: lines have none."
    if rest.startswith("{"):
        return " Another object follows: each must stand on a line of its own, or all in a list."
    return " This is how Python prints it: write it with `json.dumps`." if error.doc.startswith(_PRINTED) else ""


def _value_or_error(text: bytes) -> Any:
    """The value that a text says, or the error that says why it has none."""
    try:
        value = loaded(decoded(text))
        if text.count(b"[") + text.count(b"{") > DEEPEST and _is_deep(value):
            return ValueError(f"lists and objects lie within each other more than {DEEPEST} times")
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return ValueError("half of a surrogate pair, like \\ud83d, is no character")
    except (ValueError, RecursionError) as error:
        return error
    return value


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        parts = (one.values() if isinstance(one, dict) else one for one in level)
        level = [part for some in parts for part in some if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def _is_lines(path: Path, known: frozenset[str]) -> bool:
    """Whether each line is a row. Else the file is one value as a whole."""
    lines = (line.strip() for line in byte_lines(path))
    filled = filter(None, lines)
    first = next(filled, b"")
    if not first:
        raise DataError(f"{path} has no rows.")
    is_called_lines = bool({".jsonl", ".ndjson"} & {suffix.lower() for suffix in path.suffixes})
    try:
        value = loaded(decoded(first))
    except ValueError:
        # A list or an object over several lines. In a file that is called one of lines, it is a line that is cut short.
        return first not in (b"{", b"[") and (is_called_lines or not first.startswith((b"[", b"{")))
    if isinstance(value, dict) and (known & set(value) or not _lists(value)):
        return True
    if isinstance(value, dict) and is_called_lines and len(_lists(value)) < len(value):
        return True  # a row with a list and other columns
    return not isinstance(value, dict | list) or next(filled, None) is not None


def _lists(value: dict[str, Any]) -> dict[str, list[Any]]:
    """The lists of rows in an object. A list of messages is none: the object is a row then."""
    return {name: part for name, part in value.items() if are_objects(part) and not are_messages(part)}


def _items_of(path: Path, split: str, known: frozenset[str]) -> Iterator[tuple[str, Any, str]]:
    """The place of each item of a file that is one value, the item, and, if it is no row, its beginning."""
    value = _value_or_error(b"".join(byte_lines(path)))
    if isinstance(value, Exception):
        reason = _reason_of_json(value)
        if isinstance(value, json.JSONDecodeError):
            reason = f"line {value.lineno} is not valid JSON ({value.msg}, column {value.colno})"
        raise DataError(f"{path} can't be read: {reason}.{_advice_on_json(value)}") from value
    _refuse_columns(path, value)
    if isinstance(value, dict) and not known & set(value):
        value = _rows_under_key(path, value, split)
    for number, item in enumerate(value if isinstance(value, list) else [value], start=1):
        yield f"item {number}", item, "" if isinstance(item, dict) else json.dumps(item)[:60]


def _rows_under_key(path: Path, value: dict[str, Any], split: str) -> list[Any]:
    """The list of rows under a key."""
    lists = _lists(value)
    if len(lists) == 1:
        return next(iter(lists.values()))
    if split in lists:
        return lists[split]
    found = f"lists under {list(lists)}" if lists else f"the keys {list(value)[:8]}"
    raise DataError(
        f"{path} is one object with {found}. Expected rows: JSON lines, a list of objects, or an object with one list of "
        f"them (of several, the one called like the split, {split!r}, is taken)."
    )


def _refuse_columns(path: Path, value: Any) -> None:
    """Refuse an object of columns: lists, or objects by the row's number, which `DataFrame.to_json` writes by default."""
    if not isinstance(value, dict) or not value:
        return
    parts = list(value.values())
    is_by_number = all(isinstance(part, dict) and "0" in part for part in parts)
    holds_none = [isinstance(part, list) and part and not any(isinstance(one, dict) for one in part) for part in parts]
    if is_by_number or (len(parts) > 1 and all(holds_none)):
        how = ", as pandas writes them by default" if is_by_number else ""
        raise DataError(f"{path} holds columns, not rows{how}. Use pandas' `to_json(orient='records', lines=True)`.")
