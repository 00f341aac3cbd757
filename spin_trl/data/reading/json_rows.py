"""JSON and JSON lines whose strings stay strings: Arrow's own reader makes times of those that look like dates.

All rows are read to learn what shape the values have, then again to write them. A place whose values differ in shape (text
here and a list there, objects with other keys) is stored as JSON, so that nothing is filled in and nothing gets lost.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from ...errors import DataError
from ..columns import SFT_COLUMNS
from .exact_json import ExactJson
from .json_text import are_messages, loaded
from .kept import kept, with_progress
from .lines import BadLines, byte_lines, decoded

ROW_COLUMNS = {*SFT_COLUMNS, "chosen", "rejected", "real", "generated", "instruction", "output", "history"}
"""Columns that say that an object is a row, and not a list of rows under one key."""

_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_PRINTED = ("[{'", "{'")
_NUMBERS = {"int64", "float64"}
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
        self.fields: dict[str, ValueShape] | None = None
        self.differs = False  # not all objects have the same keys

    def add(self, value: Any) -> None:
        """Take a value into account."""
        if value is None or self.is_settled():
            return
        if isinstance(value, str):
            self.kinds.add("string")
        elif isinstance(value, dict):
            self.kinds.add("object")
            if self.fields is None:
                self.fields = {name: ValueShape() for name in value}
                self.differs = any("\0" in name for name in value)  # no name of Arrow's
            elif value.keys() != self.fields.keys():
                self.differs = True
                if self.is_settled():
                    return
            for name, part in value.items():
                if name not in self.fields:
                    self.fields[name] = ValueShape()
                self.fields[name].add(part)
        elif isinstance(value, list):
            self.kinds.add("list")
            if self.items is None:
                self.items = ValueShape()
            for part in value:
                self.items.add(part)
        elif isinstance(value, bool):
            self.kinds.add("bool")
        elif isinstance(value, int):
            self.kinds.add("int64" if value in _INTEGERS else "large")
        else:
            self.kinds.add("float64")

    def is_settled(self) -> bool:
        """Whether it is known already that these values are stored as JSON. Keys may be as many as rows then."""
        return (self.differs and not self.is_row) or (len(self.kinds) > 1 and self.kinds != _NUMBERS)

    def feature(self) -> Any:
        """What values like these are stored as; None if they differ so much that what they stand in must be JSON."""
        if not self.kinds:
            return Value("null")
        if len(self.kinds) > 1 or "large" in self.kinds:
            return None
        kind = next(iter(self.kinds))
        if kind == "list":
            feature = self.items.feature() if self.items is not None else Value("null")
            return ExactJson() if feature is None else List(feature)
        if kind == "object":
            parts = {name: shape.feature() for name, shape in (self.fields or {}).items()}
            if self.differs or not parts or None in parts.values():
                return ExactJson()
            return parts
        return Value(kind)


def features_of(shape: ValueShape) -> Features:
    """The features of rows. A column of numbers may hold integers and others; whatever else differs is stored as JSON."""
    features: dict[str, Any] = {}
    for name, column in (shape.fields or {}).items():
        if column.kinds == _NUMBERS:
            features[name] = Value("float64")
        else:
            feature = column.feature()
            features[name] = ExactJson() if feature is None else feature
    return Features(features)


def read_json_rows(
    files: Sequence[Path],
    split: str = "train",
    mapping: Mapping[str, str] | None = None,
    *,
    bad_as_rows: bool = False,
) -> Dataset:
    """Read files of JSON or JSON lines, one after the other.

    Args:
        files: which.
        split: the list that is taken, where an object holds several.
        mapping: what columns will be renamed to.
        bad_as_rows: as in [`BadLines`].

    Raises:
        DataError: of [`json_rows`].
    """
    known = frozenset(mapping or ())

    def rows() -> Iterator[dict[str, Any]]:
        for file in files:
            yield from json_rows(file, split, known, bad_as_rows=bad_as_rows)

    def read() -> tuple[Features, Iterator[dict[str, Any]]]:
        shape = ValueShape(is_row=True)
        for row in with_progress(rows(), "Checking rows"):
            shape.add(row)
        return features_of(shape), rows()

    return kept(files, f"json {split} {sorted(known)} {bad_as_rows}", read)


def json_rows(
    path: Path, split: str = "train", known: frozenset[str] = frozenset(), *, bad_as_rows: bool = False
) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines, of a list of objects, or of an object with one such list in it.

    Args:
        path: of the file. It may be compressed.
        split: the list that is taken, where an object holds several.
        known: names of columns that say that an object is a row, besides the usual ones.
        bad_as_rows: as in [`BadLines`].

    Raises:
        DataError: names the file, and the lines that are not valid JSON or no objects.
    """
    if not _is_lines(path, known | ROW_COLUMNS):
        yield from _whole_file(path, split, known | ROW_COLUMNS, bad_as_rows=bad_as_rows)
        return
    bad = BadLines(path, as_rows=bad_as_rows)
    is_alone = sum(1 for _ in itertools.islice(filter(bytes.strip, byte_lines(path)), 2)) == 1
    for number, line in enumerate(byte_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
        except (ValueError, RecursionError) as error:
            yield from bad.rows(f"line {number}", f"{_reason_of_json(error)}: {line[:60]!r}.{_advice_on_json(error)}")
            continue
        if number == 1 and is_alone:
            _refuse_columns(path, row)
        if not isinstance(row, dict):
            found = f"expected an object like {{...}}, found {line[:60]!r}"
            yield from bad.rows(f"line {number}", f"{found}{_advice_on_list(row)}")
            continue
        yield _without_nan(row)
    bad.refuse()


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


def _advice_on_list(row: Any) -> str:
    """What to do about a row that is a conversation without a column's name."""
    return '. Write it as {"messages": [...]}' if are_messages(row) else ""


def _parse(line: bytes) -> Any:
    value = loaded(decoded(line))
    if _HALF_CHARACTER.search(line):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("half of a surrogate pair, like \\ud83d, is no character") from error
    return value


def _is_lines(path: Path, known: frozenset[str] | set[str]) -> bool:
    """Whether each line is a row. Else the file is one value as a whole."""
    lines = (line.strip() for line in byte_lines(path))
    filled = (line for line in lines if line)
    first = next(filled, b"")
    if not first:
        raise DataError(f"{path} has no rows.")
    is_called_lines = bool({".jsonl", ".ndjson"} & {suffix.lower() for suffix in path.suffixes})
    try:
        value = loaded(decoded(first))
    except (ValueError, RecursionError):
        # A list or an object over several lines. In a file that is called one of lines, it is a line that is cut short.
        return first not in (b"{", b"[") and (is_called_lines or not first.startswith((b"[", b"{")))
    if isinstance(value, dict) and (known & set(value) or not _lists(value)):
        return True
    if isinstance(value, dict) and is_called_lines and len(_lists(value)) < len(value):
        return True  # a row with a list and other columns
    return not isinstance(value, dict | list) or next(filled, None) is not None


def _lists(value: dict[str, Any]) -> dict[str, list[Any]]:
    """The lists of rows in an object. A list of messages is none: the object is a row then."""
    return {
        name: part
        for name, part in value.items()
        if isinstance(part, list) and part and all(isinstance(row, dict) for row in part) and not are_messages(part)
    }


def _whole_file(
    path: Path, split: str, known: frozenset[str] | set[str], *, bad_as_rows: bool
) -> Iterator[dict[str, Any]]:
    try:
        value = _parse(b"".join(byte_lines(path)))
    except json.JSONDecodeError as error:
        problem = f"{error.msg}, column {error.colno}"
        raise DataError(
            f"{path} can't be read: line {error.lineno} is not valid JSON ({problem}).{_advice_on_json(error)}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} can't be read: {_reason_of_json(error)}.") from error
    _refuse_columns(path, value)
    if isinstance(value, dict) and not known & set(value):
        value = _rows_under_key(path, value, split)
    rows = value if isinstance(value, list) else [value]
    bad = BadLines(path, as_rows=bad_as_rows)
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict):
            yield _without_nan(row)
        else:
            found = f"expected an object like {{...}}, found {json.dumps(row)[:60]}"
            yield from bad.rows(f"item {number}", f"{found}{_advice_on_list(row)}")
    bad.refuse()


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
    are_lists = len(parts) > 1 and all(
        isinstance(part, list) and part and not any(isinstance(item, dict) for item in part) for part in parts
    )
    if is_by_number or are_lists:
        how = ", as pandas writes them by default" if is_by_number else ""
        raise DataError(
            f"{path} holds columns, not rows{how}. Write it with pandas' `to_json(..., orient='records', lines=True)`."
        )
