"""Read CSV with cells as text, exactly as written: 007, 1.50, NA, None and empty cells.

Columns whose names imply another type (`messages`, `label`, ...) are parsed from their text. Every row must have as many
fields as the header.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value

from ...counts import agreeing, counted
from ...errors import DataError
from ..columns import TRUTHS, UNREADABLE
from .exact_json import ExactJson
from .json_text import MESSAGE_COLUMNS, advice_on, holds_messages, holds_printed_messages, loaded, messages_of
from .kept import kept
from .lines import BadLines, byte_lines, decoded

SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

TEXT_OR_MESSAGES = ("prompt", "completion", "chosen", "rejected", "real", "generated")
"""Columns that hold text or lists of messages, depending on the first row."""

_LONGEST_CELL = 2**31 - 1
_LONGEST_HEADER = 100  # lines


@dataclass(frozen=True)
class Parsed:
    """How to parse a column whose cells are not plain text.

    Attributes:
        expected: description of the expected content, for messages.
        parse: function that converts a cell's text to a value, or raises ValueError.
        feature: feature that stores the values.
    """

    expected: str
    parse: Callable[[str], Any]
    feature: Any


def _or_nothing(expected: str, parse: Callable[[str], Any], feature: Any) -> Parsed:
    return Parsed(f"{expected}, or an empty cell", lambda cell: parse(cell) if cell.strip() else None, feature)


def _json(kind: type) -> Callable[[str], Any]:
    def parse(cell: str) -> Any:
        value = loaded(cell)
        if not isinstance(value, kind):
            raise ValueError(f"it holds {type(value).__name__}")
        return value

    return parse


def _truth(cell: str) -> bool:
    if cell.strip().lower() not in TRUTHS:
        raise ValueError("it is neither")
    return TRUTHS[cell.strip().lower()]


_MESSAGES = Parsed(MESSAGE_COLUMNS, messages_of, ExactJson())
_LIST = _or_nothing("a list in JSON", _json(list), ExactJson())
_LABEL = Parsed("true or false (or 1 or 0), as in TRL's unpaired preferences", _truth, Value("bool"))
PARSED = {
    "messages": _MESSAGES,
    "conversations": _MESSAGES,
    "tools": _LIST,
    "history": _LIST,
    "chat_template_kwargs": _or_nothing("an object in JSON", _json(dict), ExactJson()),
    "weight": _or_nothing("a number", float, Value("float64")),
    "train": _or_nothing("true or false (or 1 or 0)", _truth, Value("bool")),
}
"""Columns that never hold plain text, by name. `label` is another one if there is a `completion`."""


def read_csv(
    files: Sequence[Path], separator: str | None, mapping: Mapping[str, str], *, bad_as_rows: bool
) -> Dataset:
    """Read CSV files, one after another.

    Args:
        files: files to read.
        separator: separator of fields; None: detect it from the header.
        mapping: new names of columns that will be renamed; a column is parsed according to its new name.
        bad_as_rows: as `as_rows` in [`BadLines`]. Unclosed quotes are always refused, because it is unknown where the next
            row begins.

    Raises:
        DataError: if rows can't be read (the message gives file and lines), or the files have different columns.
    """

    tables: list[CsvRows] = []

    def read() -> tuple[Features, Iterator[dict[str, Any]]]:
        tables[:] = [CsvRows(file, separator, mapping, bad_as_rows=bad_as_rows) for file in files]
        first = tables[0]
        other = next((table for table in tables if table.features != first.features), None)
        if other is not None:
            raise DataError(
                f"{other.path} has the columns {other.header}, but {first.path} has {first.header}. Files of one split must "
                "have the same columns, with the same kind of content."
            )
        return first.features, itertools.chain.from_iterable(tables)

    how = f"csv {separator!r} {sorted(mapping.items())} {bad_as_rows}"
    return kept(files, how, read, lambda: [remark for table in tables for remark in table.remarks])


class CsvRows:
    """The rows of a CSV file. Iterating reads the file, and raises DataError for all bad rows at the end.

    Args:
        path: path of the file, which may be compressed.
        separator: separator of fields; None: commas, semicolons, tabs or vertical bars, detected from the header.
        mapping: new names of columns that will be renamed; a column is parsed according to its new name.
        bad_as_rows: as in [`read_csv`].

    Attributes:
        header: column names as written in the file.
        separator: separator of fields.
        features: features of the columns, by name.
        remarks: remarks on the file, once it has been read.

    Raises:
        DataError: if the file is empty, a column with content has no name, or two columns have the same name.
    """

    def __init__(self, path: Path, separator: str | None, mapping: Mapping[str, str], *, bad_as_rows: bool) -> None:
        self.path, self._bad_as_rows = path, bad_as_rows
        self.remarks: list[str] = []
        self._skipped = sum(1 for _ in itertools.takewhile(_is_before_header, self._lines()))
        self.separator, self._written = self._columns(separator, mapping)
        self._width = len(self._written)
        # Spreadsheets may write columns without a name.
        self._is_named = [bool(name.strip()) for name in self._written]
        self.header = list(itertools.compress(self._written, self._is_named))
        twice = next((name for name in self.header if self.header.count(name) > 1), None)
        if twice is not None:
            raise DataError(
                f"{self._header_line}: the header has {twice!r} twice: {self.header}. Rename or remove one."
            )
        self._called = {name: mapping.get(name, name) for name in self.header}
        self._undecided = [name for name, known in self._called.items() if known in TEXT_OR_MESSAGES]
        self.parsed = self._parsed()
        columns = [*self.header, UNREADABLE] if bad_as_rows else self.header
        of_parsed = {name: parsed.feature for name, parsed in self.parsed.items()}
        self.features = Features(dict.fromkeys(columns, Value("string")) | of_parsed)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        bad = BadLines(self.path, as_rows=self._bad_as_rows)
        empty: list[tuple[str, list[str]]] = []  # empty rows so far, which may be at the end of the file
        for where, fields in self._records(bad):
            if not any(fields):
                empty.append((where, fields))
                continue
            for record in (*empty, (where, fields)):
                yield from self._rows(*record, bad)
            empty.clear()
        if empty:
            rows = counted(len(empty), "empty row", "empty rows")
            are = agreeing(len(empty), "is", "are")
            self.remarks = [f"{rows} at the end of {self.path.name}, as written by spreadsheets, {are} left out."]
        bad.refuse()

    def _rows(self, where: str, fields: list[str], bad: BadLines) -> Iterator[dict[str, Any]]:
        """Yield the row of a record; if it can't be used, yield nothing or a row that represents it."""
        try:
            row = self._row(fields)
        except ValueError as error:
            yield from bad.rows(where, str(error))
            return
        for number, (cell, is_named) in enumerate(zip(fields, self._is_named, strict=True), start=1):
            if cell.strip() and not is_named:
                raise DataError(
                    f"{self._header_line}: column {number} of the header {self._written} has no name, but contains "
                    f"{cell[:60]!r} in {where}. Name or remove the column."
                )
        yield row

    @property
    def _header_line(self) -> str:
        return f"{self.path}, line {self._skipped + 1}"

    def _lines(self) -> Iterator[str]:
        for number, line in enumerate(byte_lines(self.path), start=1):
            try:
                yield decoded(line)
            except ValueError as error:
                raise DataError(f"{self.path}, line {number}: {error}.") from error

    def _columns(self, separator: str | None, mapping: Mapping[str, str]) -> tuple[str, list[str]]:
        """Return the separator that yields the most known column names (a comma if there are none), and the header."""
        start = list(itertools.islice(self._lines(), self._skipped, self._skipped + _LONGEST_HEADER))
        if not start:
            raise DataError(f"{self.path} has no rows.")
        is_tsv = ".tsv" in (suffix.lower() for suffix in self.path.suffixes)
        usual = dict.fromkeys(["\t", *SEPARATOR_NAMES] if is_tsv else SEPARATOR_NAMES)
        found: list[tuple[str, list[str]]] = []
        for candidate in usual if separator is None else [separator]:
            with contextlib.suppress(csv.Error):
                found.append((candidate, next(csv.reader(start, delimiter=candidate, strict=True))))
        if not found:
            raise DataError(f"{self._header_line}: the header can't be read: {start[0][:80]!r}")
        known = {*PARSED, *TEXT_OR_MESSAGES, "label", *mapping}

        def fit(one: tuple[str, list[str]]) -> tuple[bool, int, bool, int]:
            names = one[1]
            return len(names) > 1, len(known & set(names)), one is found[0] and len(names) > 1, len(names)

        separator, header = max(found, key=fit)
        if len(header) > 1 and not header[0].strip():
            # The name that pandas and `datasets` give to an unnamed first column, which is pandas' index.
            names = itertools.chain(["Unnamed: 0"], (f"Unnamed: 0.{number}" for number in itertools.count(1)))
            header[0] = next(name for name in names if name not in header)
        return separator, header

    def _parsed(self) -> dict[str, Parsed]:
        """Return the columns that are not plain text."""
        by_name = PARSED | ({"label": _LABEL} if "completion" in self._called.values() else {})
        parsed = {name: by_name[known] for name, known in self._called.items() if known in by_name}
        first = next((fields for _, fields in self._records(BadLines(self.path)) if len(fields) == self._width), [])
        for name, cell in zip(self.header, itertools.compress(first, self._is_named), strict=False):
            if name in self._undecided and holds_messages(cell):
                parsed[name] = _MESSAGES
        return parsed

    def _records(self, bad: BadLines) -> Iterator[tuple[str, list[str]]]:
        """Yield the location and the fields of each row."""
        read: list[str] = []  # the lines of a row

        def lines() -> Iterator[str]:
            for line in itertools.islice(self._lines(), self._skipped, None):
                read.append(line)
                yield line

        reader = csv.reader(lines(), delimiter=self.separator, strict=True)
        limit = csv.field_size_limit(_LONGEST_CELL)  # a global limit: a cell may be longer than 128 KiB
        try:
            for number in itertools.count():
                read.clear()
                before, problem, fields = reader.line_num, "", []
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    problem = _reason_of_csv(error, self.separator)
                if self._has_quotes_behind_space(fields, read):
                    problem = "a quote after a space would be part of the text: remove the space."
                where = self._where(before, reader.line_num)
                is_blank = not fields or (len(fields) == 1 < self._width and not fields[0].strip())
                if problem:
                    bad.add(where, problem)
                elif number > 0 and not is_blank:
                    yield where, fields
        finally:
            csv.field_size_limit(limit)

    def _has_quotes_behind_space(self, fields: list[str], lines: list[str]) -> bool:
        """Return whether a cell is written like `, "text"`. Literal quotes would be doubled inside a quoted cell."""
        if self.separator == "\t":  # quotes are often plain text in TSV
            return False
        found = [cell for cell in fields if cell.startswith(" ") and cell.lstrip(" ")[:1] == '"' == cell[-1]]
        return bool(found) and any(f"{self.separator}{cell}" in "".join(lines) for cell in found)

    def _where(self, before: int, last: int) -> str:
        first, last = before + 1 + self._skipped, last + self._skipped
        return f"line {first}" if first >= last else f"lines {first} to {last}"

    def _row(self, fields: list[str]) -> dict[str, Any]:
        """Return the values of a row; raise ValueError if a value or their number is wrong."""
        if len(fields) != self._width:
            names = SEPARATOR_NAMES.get(self.separator, repr(self.separator))
            hint = f" Text that contains {names} must be in quotes." if len(fields) > self._width else ""
            found = counted(len(fields), "field")
            raise ValueError(f"{found} separated by {names}, but the header has {self._width}: {self._written}.{hint}")
        row: dict[str, Any] = dict(zip(self.header, itertools.compress(fields, self._is_named), strict=True))
        for name, cell in row.items():
            if name in self.parsed:
                try:
                    row[name] = self.parsed[name].parse(cell)
                except ValueError:
                    raise self._other_cell(name, cell, self.parsed[name]) from None
            elif name in self._undecided and holds_messages(cell):
                raise ValueError(f"`{name}` is a list of messages, but it is text in the first row.")
            elif name in self._undecided and holds_printed_messages(cell):
                raise self._other_cell(name, cell, _MESSAGES)
        return row

    def _other_cell(self, name: str, cell: str, parsed: Parsed) -> ValueError:
        """Return the error for a cell whose content does not match its column."""
        hint = advice_on(cell)
        if self._called[name] == "label":
            hint = " If it means something else, map it to another name: `column_mapping: {label: topic}`."
        return ValueError(f"`{name}` is {cell[:60]!r}; expected {parsed.expected}.{hint}")


def _is_before_header(line: str) -> bool:
    """Return whether a line is blank, or Excel's declaration of the separator."""
    return not line.strip("\r\n") or line.lower().startswith("sep=")


def _reason_of_csv(error: csv.Error, separator: str) -> str:
    """Explain an error in a row's quotes more clearly than the csv module does."""
    reasons = {
        "unexpected end of data": "a quote is opened here and never closed.",
        "expected after": (
            f"a quoted field continues after its closing quote, where {SEPARATOR_NAMES.get(separator, repr(separator))} "
            'must follow. Double a quote inside a quoted field: "".'
        ),
        "new-line character": "an unquoted field contains a carriage return without a line feed.",
    }
    return next((reason for words, reason in reasons.items() if words in str(error)), f"not valid CSV ({error}).")
