"""CSV whose cells are text, exactly as they are written: 007, 1.50, NA, None and nothing at all.

Columns whose name says that they hold something else (`messages`, `label`, ...) are parsed from their text. Every row must
have as many fields as the header.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value

from ...counts import counted
from ...errors import DataError
from ..columns import UNREADABLE
from ..holdings import TRUTHS
from .exact_json import ExactJson
from .json_text import MESSAGE_COLUMNS, advice_on, holds_messages, holds_printed_messages, loaded, messages_of
from .kept import kept
from .lines import BadLines, byte_lines, decoded

SEPARATORS = (",", ";", "\t", "|")
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


def _json(kind: type, *, required: bool = False) -> Callable[[str], Any]:
    def parse(cell: str) -> Any:
        if not cell.strip() and not required:
            return None
        value = loaded(cell)
        if not isinstance(value, kind):
            raise ValueError(f"it holds {type(value).__name__}")
        return value

    return parse


def _truth_parser(*, required: bool) -> Callable[[str], bool | None]:
    def parse(cell: str) -> bool | None:
        text = cell.strip().lower()
        if not text and not required:
            return None
        if text not in TRUTHS:
            raise ValueError("it is neither")
        return TRUTHS[text]

    return parse


_MESSAGES = Parsed(MESSAGE_COLUMNS, messages_of, ExactJson())
_LABEL = Parsed(
    "true or false (or 1 or 0), as in TRL's unpaired preferences", _truth_parser(required=True), Value("bool")
)
PARSED = {
    "messages": _MESSAGES,
    "conversations": _MESSAGES,
    "tools": Parsed("a list in JSON, or nothing", _json(list), ExactJson()),
    "history": Parsed("a list in JSON, or nothing", _json(list), ExactJson()),
    "chat_template_kwargs": Parsed("an object in JSON, or nothing", _json(dict), ExactJson()),
    "weight": Parsed("a number, or nothing", lambda cell: float(cell) if cell.strip() else None, Value("float64")),
    "train": Parsed("true or false (or 1 or 0), or nothing", _truth_parser(required=False), Value("bool")),
}
"""Columns that never hold plain text, by name. `label` is one where there is a `completion`."""


def read_csv(
    files: Sequence[Path],
    separator: str | None = None,
    mapping: Mapping[str, str] | None = None,
    *,
    bad_as_rows: bool = False,
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
        for table in tables:
            if table.features != tables[0].features:
                raise DataError(
                    f"{table.path} has the columns {table.header}, but {tables[0].path} has {tables[0].header}. Files "
                    "of one split must have the same columns, with the same kind of content."
                )
        return tables[0].features, itertools.chain.from_iterable(tables)

    def remarks() -> list[str]:
        return [remark for table in tables for remark in table.remarks()]

    return kept(files, f"csv {separator!r} {sorted((mapping or {}).items())} {bad_as_rows}", read, remarks)


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
        num_empty_at_end: rows at the end of the file whose cells are all empty, which are left out. It is known once the
            file is read.

    Raises:
        DataError: the file is empty, a column has no name, or two have the same.
    """

    def __init__(
        self,
        path: Path,
        separator: str | None = None,
        mapping: Mapping[str, str] | None = None,
        *,
        bad_as_rows: bool = False,
    ) -> None:
        self.path, self._bad_as_rows = path, bad_as_rows
        self._skipped = self.num_empty_at_end = 0
        self._mapping = mapping or {}
        start = self._start()
        if not start:
            raise DataError(f"{path} has no rows.")
        self.separator, self.header = self._columns(start, separator)
        self._check_header()
        self.parsed = self._parsed()
        self.features = Features(
            {name: self.parsed[name].feature if name in self.parsed else Value("string") for name in self.header}
            | ({UNREADABLE: Value("string")} if bad_as_rows else {})
        )

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
        self.num_empty_at_end = len(empty)
        bad.refuse()

    def remarks(self) -> list[str]:
        """What there is to say of the file, once it is read."""
        if not self.num_empty_at_end:
            return []
        rows = counted(self.num_empty_at_end, "row whose cells are all empty is", "rows whose cells are all empty are")
        return [f"{rows} left out at the end of {self.path.name}, as spreadsheets write them."]

    def _rows(self, where: str, fields: list[str], bad: BadLines) -> Iterator[dict[str, Any]]:
        """The row that a record is; or none, or one that stands for it, if it can't be used."""
        if len(fields) != self._width:
            yield from bad.rows(where, self._count_problem(fields))
            return
        for number in self._nameless:
            if fields[number].strip():
                raise DataError(
                    f"{self.path}, line {self._skipped + 1}: column {number + 1} of the header {self._written} has no name, "
                    f"but holds {fields[number][:60]!r} in {where}. Name it, or remove it."
                )
        try:
            row = self._row(self._named(fields))
        except ValueError as error:
            yield from bad.rows(where, str(error))
            return
        yield row

    def _named(self, fields: list[str]) -> list[str]:
        """The fields of columns with a name. Spreadsheets write empty ones beside them."""
        return [field for number, field in enumerate(fields) if number not in self._nameless]

    def _lines(self) -> Iterator[str]:
        for number, line in enumerate(byte_lines(self.path), start=1):
            try:
                yield decoded(line)
            except ValueError as error:
                raise DataError(f"{self.path}, line {number}: {error}.") from error

    def _start(self) -> list[str]:
        """The lines of the header: one, or more where a name has line breaks in it."""
        start: list[str] = []
        for line in self._lines():
            if not start and (not line.strip("\r\n") or line.lower().startswith("sep=")):
                self._skipped += 1  # Excel's own note of the separator, or a blank line
                continue
            start.append(line)
            if sum(part.count('"') for part in start) % 2 == 0 or len(start) == _LONGEST_HEADER:
                break
        return start

    def _columns(self, start: list[str], separator: str | None) -> tuple[str, list[str]]:
        """The separator that makes the most columns with known names of the header; a comma, if there is none."""
        if separator is not None:
            candidates: tuple[str, ...] = (separator,)
        else:
            is_tsv = ".tsv" in (suffix.lower() for suffix in self.path.suffixes)
            candidates = ("\t", *(one for one in SEPARATORS if one != "\t")) if is_tsv else SEPARATORS
        found: dict[str, list[str]] = {}
        for candidate in candidates:
            try:
                found[candidate] = next(csv.reader(start, delimiter=candidate, strict=True))
            except csv.Error:
                continue
        if not found:
            raise DataError(f"{self.path}, line {self._skipped + 1}: the header can't be read: {start[0][:80]!r}")
        known = {*PARSED, *TEXT_OR_MESSAGES, "label", *self._mapping}

        def fits(candidate: str) -> tuple[bool, int, bool, int]:
            names = found[candidate]
            is_first = candidate == next(iter(found)) and len(names) > 1
            return len(names) > 1, len(known & set(names)), is_first, len(names)

        chosen = max(found, key=fits)
        return chosen, found[chosen]

    def _check_header(self) -> None:
        where = f"{self.path}, line {self._skipped + 1}"
        if len(self.header) > 1 and not self.header[0].strip():
            self.header[0] = next(name for name in _index_names() if name not in self.header)
        self._written, self._width = list(self.header), len(self.header)
        self._nameless = frozenset(number for number, name in enumerate(self.header) if not name.strip())
        self.header = self._named(self.header)
        twice = next((name for name in self.header if self.header.count(name) > 1), None)
        if twice is not None:
            raise DataError(
                f"{where}: the header has two columns {twice!r}: {self.header}. Give one of them another name, or remove it."
            )

    def _parsed(self) -> dict[str, Parsed]:
        """The columns that are not read as text."""
        self._called = called = {name: self._mapping.get(name, name) for name in self.header}
        parsed = {name: PARSED[known] for name, known in called.items() if known in PARSED}
        if "completion" in called.values():
            parsed |= {name: _LABEL for name, known in called.items() if known == "label"}
        self._undecided = [name for name, known in called.items() if known in TEXT_OR_MESSAGES]
        first = next((fields for _, fields in self._records(BadLines(self.path)) if len(fields) == self._width), [])
        for name, cell in zip(self.header, self._named(first), strict=False):
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
        before = 0
        limit = csv.field_size_limit(_LONGEST_CELL)  # of all readers: a cell may be longer than 128 KiB
        try:
            for number in itertools.count():
                read.clear()
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    bad.add(self._where(before, reader.line_num), _reason_of_csv(error, self.separator))
                    before = reader.line_num
                    continue
                where, before = self._where(before, reader.line_num), reader.line_num
                if self._has_quotes_behind_space(fields, read):
                    bad.add(
                        where, "a quote stands behind a space, so it would be part of the text: take the space out."
                    )
                    continue
                is_blank = not fields or (len(fields) == 1 < self._width and not fields[0].strip())
                if number > 0 and not is_blank:
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

    def _count_problem(self, fields: list[str]) -> str:
        names = SEPARATOR_NAMES.get(self.separator, repr(self.separator))
        hint = f" A text with {names} in it must stand in quotes." if len(fields) > self._width else ""
        found = counted(len(fields), "field")
        return f"{found} separated by {names}, but the header has {self._width}: {self._written}.{hint}"

    def _row(self, fields: list[str]) -> dict[str, Any]:
        """The values of a row. Raises ValueError with what is wrong with one of them."""
        row: dict[str, Any] = dict(zip(self.header, fields, strict=True))
        for name, cell in row.items():
            if name in self.parsed:
                try:
                    row[name] = self.parsed[name].parse(cell)
                except (ValueError, RecursionError):
                    expected = self.parsed[name].expected
                    raise ValueError(
                        f"`{name}` is {cell[:60]!r}; expected {expected}.{_hint_on_cell(self._called[name], cell)}"
                    ) from None
            elif name in self._undecided and holds_messages(cell):
                raise ValueError(f"`{name}` is a list of messages, but in the first row it is text.")
            elif name in self._undecided and holds_printed_messages(cell):
                raise ValueError(
                    f"`{name}` is {cell[:60]!r}; expected {_MESSAGES.expected}.{_hint_on_cell(name, cell)}"
                )
        return row


def _index_names() -> Iterator[str]:
    """What pandas and `datasets` call a first column without a name: pandas writes its index so."""
    yield "Unnamed: 0"
    yield from (f"Unnamed: 0.{number}" for number in itertools.count(1))


def _hint_on_cell(name: str, cell: str) -> str:
    if name == "label":
        return " If it says something else, map it to another name: `column_mapping: {label: topic}`."
    return advice_on(cell)


def _reason_of_csv(error: csv.Error, separator: str) -> str:
    """What is wrong with a row's quotes, in other words than csv's."""
    text = str(error)
    if "unexpected end of data" in text:
        return "a quote is opened here and not closed until the end of the file."
    if "expected after" in text:
        expected = SEPARATOR_NAMES.get(separator, repr(separator))
        return (
            f"a quoted field goes on after its closing quote, where {expected} must follow. A "
            'quote inside a quoted field is written twice: "".'
        )
    if "new-line character" in text:
        return "a carriage return without a line feed stands in a field without quotes."
    return f"not valid CSV ({text})."
