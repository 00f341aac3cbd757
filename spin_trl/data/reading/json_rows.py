"""Read JSON and JSON lines without changing strings: Arrow's own reader turns those that look like dates into timestamps.

All rows are read once to determine the shape of their values, and again to write them. Fields whose values differ in shape
(text in one row and a list in another, objects with different keys) are stored as JSON, so nothing is filled in or lost.
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
"""Columns that identify an object as a row, rather than an object with a list of rows under one key."""

_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_PRINTED = ("[{'", "{'")
_KINDS = {str: "string", dict: "object", list: "list", bool: "bool", float: "float64"}
_NUMBERS = {"int64", "float64"}
DEEPEST_OF_ARROW = 8
"""Maximum nesting depth of lists and objects that are not stored as JSON.

Arrow can't read files with more than 64 levels, and the time in which `datasets` decodes a value doubles with each level.
"""

DEEPEST = 100
"""Maximum nesting depth of lists and objects in a row. Recursive functions in libraries fail beyond some depth."""

_INTEGERS = range(-(2**63), 2**63)


class ValueShape:
    """The common shape of the values at one position in all rows.

    Args:
        is_row: whether the values are rows, whose keys are columns and may be missing.
    """

    __slots__ = ("differs", "fields", "is_row", "items", "kinds")

    def __init__(self, *, is_row: bool = False) -> None:
        self.is_row = is_row
        self.kinds: set[str] = set()
        self.items: ValueShape | None = None
        self.fields: defaultdict[str, ValueShape] = defaultdict(ValueShape)
        self.differs = False  # whether objects have different keys

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
                self.differs = any("\0" in name for name in value)  # not a valid name in Arrow
            elif value.keys() != self.fields.keys():
                self.differs = True
            if not self.is_settled():
                for name, part in value.items():
                    self.fields[name].add(part)

    def is_settled(self) -> bool:
        """Return whether these values must be stored as JSON. Then there may be as many different keys as rows."""
        return (self.differs and not self.is_row) or (len(self.kinds) > 1 and self.kinds != _NUMBERS)

    def feature(self, depth: int = 0) -> Any:
        """Return the feature that stores these values; None if they differ so much, or are nested so deeply, that the
        enclosing value must be stored as JSON.

        Args:
            depth: number of enclosing lists and objects.
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
    """Return the features of rows. A column may mix integers and other numbers; other mixed columns are stored as JSON."""
    features: dict[str, Any] = {}
    for name, column in shape.fields.items():
        feature = Value("float64") if column.kinds == _NUMBERS else column.feature()
        features[name] = ExactJson() if feature is None else feature
    return Features(features)


def read_json_rows(files: Sequence[Path], split: str, mapping: Mapping[str, str], *, bad_as_rows: bool) -> Dataset:
    """Read files of JSON or JSON lines, one after another.

    Args:
        files: files to read.
        split: key of the list to read, if an object holds several.
        mapping: new names of columns that will be renamed.
        bad_as_rows: as `as_rows` in [`BadLines`].

    Raises:
        DataError: as in [`json_rows`].
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
    """Yield the rows of a file of JSON lines, of a list of objects, or of an object that contains such a list.

    Args:
        path: path of the file, which may be compressed.
        split: key of the list to read, if an object holds several.
        known: column names that identify an object as a row, in addition to the usual ones.
        bad_as_rows: as `as_rows` in [`BadLines`].

    Raises:
        DataError: if lines are not valid JSON or not objects; the message gives the file and the lines.
    """
    known |= ROW_COLUMNS
    bad = BadLines(path, as_rows=bad_as_rows)
    for where, value, shown in _lines_of(path) if _is_lines(path, known) else _items_of(path, split, known):
        if isinstance(value, dict):
            yield _without_nan(value)
        elif isinstance(value, Exception):
            yield from bad.rows(where, f"{_reason_of_json(value)}: {shown}.{_advice_on_json(value)}")
        else:
            # A list of messages is a conversation without its column's name.
            advice = '. Write it as {"messages": [...]}' if are_messages(value) else ""
            yield from bad.rows(where, f"expected an object like {{...}}, found {shown}{advice}")
    bad.refuse()


def _lines_of(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield the location of each line, its value or the error that it causes, and its beginning."""
    is_alone = sum(1 for _ in itertools.islice(filter(bytes.strip, byte_lines(path)), 2)) == 1
    for number, line in enumerate(byte_lines(path), start=1):
        if not line.strip():
            continue
        value = _value_or_error(line)
        if number == 1 and is_alone:
            _refuse_columns(path, value)
        yield f"line {number}", value, repr(line[:60])


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN by null in a row: pandas uses NaN for missing values."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def _reason_of_json(error: Exception) -> str:
    """Return the reason why a line can't be read."""
    return str(error) if str(error).startswith("not UTF-8") else f"not valid JSON ({error})"


def _advice_on_json(error: Exception) -> str:
    """Return advice on text that is not valid JSON; empty if there is none."""
    if not isinstance(error, json.JSONDecodeError):
        return ""
    rest = error.doc[error.pos :].lstrip() if error.msg == "Extra data" else ""
    if rest.startswith(","):
        return " There is a comma after the object: remove it."
    if rest.startswith("{"):
        return " Another object follows: put each object on a separate line, or all of them in a list."
    return " It was printed by Python: write it with `json.dumps`." if error.doc.startswith(_PRINTED) else ""


def _value_or_error(text: bytes) -> Any:
    """Return the value of a JSON text, or the error that it causes."""
    try:
        value = loaded(decoded(text))
        if text.count(b"[") + text.count(b"{") > DEEPEST and _is_deep(value):
            return ValueError(f"lists and objects are nested more than {DEEPEST} levels deep")
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return ValueError("half of a surrogate pair, like \\ud83d, is not a character")
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
    """Return whether each line is a row; otherwise the whole file is a single value."""
    lines = (line.strip() for line in byte_lines(path))
    filled = filter(None, lines)
    first = next(filled, b"")
    if not first:
        raise DataError(f"{path} has no rows.")
    is_called_lines = bool({".jsonl", ".ndjson"} & {suffix.lower() for suffix in path.suffixes})
    try:
        value = loaded(decoded(first))
    except ValueError:
        # A list or an object that spans several lines, or, in a file named as JSON lines, a truncated line.
        return first not in (b"{", b"[") and (is_called_lines or not first.startswith((b"[", b"{")))
    if isinstance(value, dict) and (known & set(value) or not _lists(value)):
        return True
    if isinstance(value, dict) and is_called_lines and len(_lists(value)) < len(value):
        return True  # a row with a list and other columns
    return not isinstance(value, dict | list) or next(filled, None) is not None


def _lists(value: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the lists of rows in an object. A list of messages does not count: then the object is a row."""
    return {name: part for name, part in value.items() if are_objects(part) and not are_messages(part)}


def _items_of(path: Path, split: str, known: frozenset[str]) -> Iterator[tuple[str, Any, str]]:
    """Yield the items of a file that is a single value: location, item, and, if it is not a row, its beginning."""
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
    """Return the list of rows in an object."""
    lists = _lists(value)
    if len(lists) == 1:
        return next(iter(lists.values()))
    if split in lists:
        return lists[split]
    found = f"lists under {list(lists)}" if lists else f"the keys {list(value)[:8]}"
    raise DataError(
        f"{path} is a single object with {found}. Expected rows: JSON lines, a list of objects, or an object with one such "
        f"list (or several, one of them named after the split, {split!r})."
    )


def _refuse_columns(path: Path, value: Any) -> None:
    """Raise if a value is an object of columns: lists, or objects keyed by row number, `DataFrame.to_json`'s default."""
    if not isinstance(value, dict) or not value:
        return
    parts = list(value.values())
    is_by_number = all(isinstance(part, dict) and "0" in part for part in parts)
    holds_none = [isinstance(part, list) and part and not any(isinstance(one, dict) for one in part) for part in parts]
    if is_by_number or (len(parts) > 1 and all(holds_none)):
        how = ", which is pandas' default format" if is_by_number else ""
        raise DataError(f"{path} holds columns, not rows{how}. Use pandas' `to_json(orient='records', lines=True)`.")
