"""Identify rows by their content: a key for every row, and a digest of all keys.

More columns belong to a row than in version 0.1.0, so a digest records its definition: `02` and 16 hex digits for the
second, 16 hex digits alone for the first. A run keeps using the definition that it started with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from ..files import DEFINITION, json_digest, numbered, parts_digest
from .arrow import rows_of
from .columns import SFT_COLUMNS, is_sft, read_columns

KEY_DIGITS = 20
"""Hexadecimal digits of a row's content in its key."""


class KeyList(Sequence[str]):
    """Keys of rows, in order. As a list of texts, they would take three times the memory.

    Args:
        contents: digest of every row's content, as bytes, shape (rows,).
        numbers: number of every row among those of its content, from 1, shape (rows,).
    """

    def __init__(self, contents: NDArray[np.bytes_], numbers: NDArray[np.uint32]) -> None:
        self._contents, self._numbers = contents, numbers

    def __len__(self) -> int:
        return len(self._contents)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> KeyList: ...
    def __getitem__(self, row: int | slice) -> str | KeyList:
        if isinstance(row, slice):
            return KeyList(self._contents[row], self._numbers[row])
        key, number = self._contents[row].decode("ascii"), self._numbers[row]
        return key if number == 1 else f"{key}-{number}"

    def repeated(self) -> list[int]:
        """Return the positions of rows whose content is also that of an earlier row."""
        positions: list[int] = np.flatnonzero(self._numbers > 1).tolist()
        return positions


@dataclass(frozen=True)
class RowKeys:
    """Keys of a dataset's rows, in order, and a digest of all keys, which is equal if and only if the data is equal."""

    keys: KeyList = field(compare=False)
    digest: str


def row_keys(dataset: Dataset, definition: int = DEFINITION) -> RowKeys:
    """Compute a key for every row from its content alone, such that shuffling and reloading do not change it.

    Rows with equal content are numbered in order, so that all keys are distinct. A row without any of the columns that the
    second definition adds has the same key under both definitions.

    Args:
        dataset: rows.
        definition: definition of the digest. 1: columns of version 0.1.0; 2: also all other columns that are read
            (`system`, `instruction`, ...).
    """
    columns = [column for column in SFT_COLUMNS if column in dataset.column_names]
    read = read_columns(dataset) if definition > 1 and is_sft(dataset) else []
    more = [column for column in read if column not in SFT_COLUMNS]
    contents = np.zeros(len(dataset), dtype=f"S{KEY_DIGITS}")
    # Without any column that is read, `datasets` yields no rows. Preparing such rows fails and names the columns.
    rows = rows_of(dataset.select_columns([*columns, *more])) if columns or more else ({} for _ in range(len(dataset)))
    for number, row in enumerate(rows):
        content = {name: value for name, value in row.items() if name in columns or value is not None}
        contents[number] = json_digest(content, KEY_DIGITS)
    keys = KeyList(contents, _occurrences(contents))
    return RowKeys(keys, numbered(definition, parts_digest(keys)))


def _occurrences(contents: NDArray[np.bytes_]) -> NDArray[np.uint32]:
    """Return the number of every row among those with equal content, in order, from 1."""
    order = np.argsort(contents, kind="stable")
    in_order = contents[order]
    begins = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]])) if len(order) else order
    sizes = np.diff(np.append(begins, len(order)))
    numbers = np.empty(len(order), dtype=np.uint32)
    numbers[order] = np.arange(len(order)) - np.repeat(begins, sizes) + 1
    return numbers


def rows_digest(rows: Dataset) -> str:
    """Return a hash of the keys of prepared rows, in order, which is equal for the same rows of the same data."""
    batches = rows.select_columns("key").iter(batch_size=1000)
    return parts_digest("\n".join(batch["key"]) for batch in batches)
