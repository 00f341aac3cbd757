"""Identify rows by their content: a key for every row, and a digest of all keys.

More columns belong to a row than in version 0.1.0, so a digest records its definition: `02` and 16 hex digits for the
second, 16 hex digits alone for the first. A run keeps using the definition that it started with.
"""

from __future__ import annotations

from dataclasses import dataclass

from datasets import Dataset

from ..files import DEFINITION, json_digest, numbered, parts_digest
from .arrow import rows_of
from .columns import SFT_COLUMNS, is_sft, read_columns


@dataclass(frozen=True)
class RowKeys:
    """Keys of a dataset's rows, in order, and a digest of all keys, which is equal if and only if the data is equal."""

    keys: list[str]
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
    seen: dict[str, int] = {}
    keys: list[str] = []
    for row in rows_of(dataset.select_columns([*columns, *more])):
        content = {name: value for name, value in row.items() if name in columns or value is not None}
        key = json_digest(content, 20)
        count = seen[key] = seen.get(key, 0) + 1
        keys.append(key if count == 1 else f"{key}-{count}")
    return RowKeys(keys, numbered(definition, parts_digest(keys)))


def rows_digest(rows: Dataset) -> str:
    """Return a hash of the keys of prepared rows, in order, which is equal for the same rows of the same data."""
    batches = rows.select_columns("key").iter(batch_size=1000)
    return parts_digest("\n".join(batch["key"]) for batch in batches)
