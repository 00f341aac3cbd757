"""CSV whose cells are text, exactly as they are written: 007, 1.50, NA, None and nothing at all.

Columns whose name says that they hold something else (`messages`, `label`, ...) are parsed from their text. Every row must
have as many fields as the header.
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

from ...counts import counted
from ...errors import DataError
from ..columns import TRUTHS, UNREADABLE
from .exact_json import ExactJson
from .json_text import MESSAGE_COLUMNS, advice_on, holds_messages, holds_printed_messages, loaded, messages_of
from .kept import kept
from .lines import BadLines, byte_lines, decoded

SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

TEXT_OR_MESSAGES = ("prompt", "completion", "chosen", "rejected", "real", "generated")
"""Columns that hold text or lists of messages. The first row decides."""

_LONGEST_CELL = 2**31 - 1
_LONGEST_HEADER = 100  # lines


@dataclass(frozen=True)
class Parsed:
    """How the cells of a column are read that are no plain text.

    Attributes:
        expected: what a cell must hold, for messages.
        parse: makes a value of a cell's text, or raises ValueError.
        feature: what the values are stored as.
    """

    expected: str
    parse: Callable[[str], Any]
    feature: Any


def _or_nothing(expected: str, parse: Callable[[str], Any], feature: Any) -> Parsed:
    return Parsed(f"{expected}, or nothing", lambda cell: parse(cell) if cell.strip() else None, feature)


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
"""Columns that never hold plain text, by name. `label` is one where there is a `completion`."""


def read_csv(
    files: Sequence[Path], separator: str | None, mapping: Mapping[str, str], *, bad_as_rows: bool
) -> Dataset:
    """Read CSV files, one after the other.

    Args:
        files: which.
        separator: of fields. None: as the header shows.
        mapping: what columns will be renamed to: a column is read as what its new name says.
        bad_as_rows: as in [`BadLines`]. Quotes that are not closed are refused all the same: nobody knows then where the
            next row begins.

    Raises:
        DataError: rows can't be read; the message names file and lines. Or the files have not the same columns.
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
    """The rows of a CSV file. Iterating reads the file, and raises DataError for its bad rows once it is through.

    Args:
        path: of the file. It may be compressed.
        separator: of fields. None: commas, semicolons, tabs or vertical bars, as the header shows.
        mapping: what columns will be renamed to: a column is read as what its new name says.
        bad_as_rows: as in [`read_csv`].

    Attributes:
        header: names of the columns, as they are written.
        separator: of fields.
        features: of the columns, by name.
        remarks: what there is to say of the file, once it is read.

    Raises:
        DataError: the file is empty, a column has no name, or two have the same.
    """

    def __init__(self, path: Path, separator: str | None, mapping: Mapping[str, str], *, bad_as_rows: bool) -> None:
        self.path, self._bad_as_rows = path, bad_as_rows
        self.remarks: list[str] = []
        self._skipped = sum(1 for _ in itertools.takewhile(_is_before_header, self._lines()))
        self.separator, self._written = self._columns(separator, mapping)
        self._width = len(self._written)
        # Spreadsheets write columns without a name, too.
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
        empty: list[tuple[str, list[str]]] = []  # rows that may be the last ones
        for where, fields in self._records(bad):
            if not any(fields):
                empty.append((where, fields))
                continue
            for record in (*empty, (where, fields)):
                yield from self._rows(*record, bad)
            empty.clear()
        if empty:
            rows = counted(len(empty), "row whose cells are all empty is", "rows whose cells are all empty are")
            self.remarks = [f"{rows} left out at the end of {self.path.name}, as spreadsheets write them."]
        bad.refuse()

    def _rows(self, where: str, fields: list[str], bad: BadLines) -> Iterator[dict[str, Any]]:
        """The row that a record is; or none, or one that stands for it, if it can't be used."""
        try:
            row = self._row(fields)
        except ValueError as error:
            yield from bad.rows(where, str(error))
            return
        for number, (cell, is_named) in enumerate(zip(fields, self._is_named, strict=True), start=1):
            if cell.strip() and not is_named:
                raise DataError(
                    f"{self._header_line}: column {number} of the header {self._written} has no name, but holds "
                    f"{cell[:60]!r} in {where}. Name it, or remove it."
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
        """The separator that makes the most columns with known names of the header; a comma, if there is none."""
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
            # What pandas and `datasets` call a first column without a name: pandas writes its index so.
            names = itertools.chain(["Unnamed: 0"], (f"Unnamed: 0.{number}" for number in itertools.count(1)))
            header[0] = next(name for name in names if name not in header)
        return separator, header

    def _parsed(self) -> dict[str, Parsed]:
        """The columns that are not read as text."""
        by_name = PARSED | ({"label": _LABEL} if "completion" in self._called.values() else {})
        parsed = {name: by_name[known] for name, known in self._called.items() if known in by_name}
        first = next((fields for _, fields in self._records(BadLines(self.path)) if len(fields) == self._width), [])
        for name, cell in zip(self.header, itertools.compress(first, self._is_named), strict=False):
            if name in self._undecided and holds_messages(cell):
                parsed[name] = _MESSAGES
        return parsed

    def _records(self, bad: BadLines) -> Iterator[tuple[str, list[str]]]:
        """The fields of each row, with the lines that they stand in."""
        read: list[str] = []  # the lines of a row

        def lines() -> Iterator[str]:
            for line in itertools.islice(self._lines(), self._skipped, None):
                read.append(line)
                yield line

        reader = csv.reader(lines(), delimiter=self.separator, strict=True)
        limit = csv.field_size_limit(_LONGEST_CELL)  # of all readers: a cell may be longer than 128 KiB
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
                    problem = "a quote behind a space would be part of the text: take the space out."
                where = self._where(before, reader.line_num)
                is_blank = not fields or (len(fields) == 1 < self._width and not fields[0].strip())
                if problem:
                    bad.add(where, problem)
                elif number > 0 and not is_blank:
                    yield where, fields
        finally:
            csv.field_size_limit(limit)

    def _has_quotes_behind_space(self, fields: list[str], lines: list[str]) -> bool:
        """Whether a cell is written like `, "text"`. Where that is the text, it stands in quotes, with its own doubled."""
        if self.separator == "\t":  # in which quotes are often mere text
            return False
        found = [cell for cell in fields if cell.startswith(" ") and cell.lstrip(" ")[:1] == '"' == cell[-1]]
        return bool(found) and any(f"{self.separator}{cell}" in "".join(lines) for cell in found)

    def _where(self, before: int, last: int) -> str:
        first, last = before + 1 + self._skipped, last + self._skipped
        return f"line {first}" if first >= last else f"lines {first} to {last}"

    def _row(self, fields: list[str]) -> dict[str, Any]:
        """The values of a row. Raises ValueError with what is wrong with one of them, or with their number."""
        if len(fields) != self._width:
            names = SEPARATOR_NAMES.get(self.separator, repr(self.separator))
            hint = f" A text with {names} in it must stand in quotes." if len(fields) > self._width else ""
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
                raise ValueError(f"`{name}` is a list of messages, but in the first row it is text.")
            elif name in self._undecided and holds_printed_messages(cell):
                raise self._other_cell(name, cell, _MESSAGES)
        return row

    def _other_cell(self, name: str, cell: str, parsed: Parsed) -> ValueError:
        """The error for a cell that holds something else than its column."""
        hint = advice_on(cell)
        if self._called[name] == "label":
            hint = " If it says something else, map it to another name: `column_mapping: {label: topic}`."
        return ValueError(f"`{name}` is {cell[:60]!r}; expected {parsed.expected}.{hint}")


def _is_before_header(line: str) -> bool:
    """Whether a line is blank, or Excel's own note of the separator."""
    return not line.strip("\r\n") or line.lower().startswith("sep=")


def _reason_of_csv(error: csv.Error, separator: str) -> str:
    """What is wrong with a row's quotes, in other words than csv's."""
    reasons = {
        "unexpected end of data": "a quote is opened here and not closed until the end of the file.",
        "expected after": (
            f"a quoted field goes on after its closing quote, where {SEPARATOR_NAMES.get(separator, repr(separator))} must "
            'follow. A quote inside a quoted field is written twice: "".'
        ),
        "new-line character": "a carriage return without a line feed stands in a field without quotes.",
    }
    return next((reason for words, reason in reasons.items() if words in str(error)), f"not valid CSV ({error}).")
