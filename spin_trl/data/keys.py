"""Names rows by their content: a key for every row, and a digest of all of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from .arrow import rows_of
from .columns import SFT_COLUMNS


@dataclass(frozen=True)
class RowKeys:
    """Keys of a dataset's rows, in order, and a digest of them all: equal if and only if the data is."""

    keys: list[str]
    digest: str


def row_keys(dataset: Dataset) -> RowKeys:
    """A key for every row, from the row's content alone, so that it outlives shuffling and re-loading.

    Rows of equal content are numbered, in order, so that no two keys are equal.
    """
    columns = [column for column in SFT_COLUMNS if column in dataset.column_names]
    seen: dict[str, int] = {}
    keys: list[str] = []
    digest = hashlib.sha256()
    for row in rows_of(dataset.select_columns(columns)):
        key = hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).hexdigest()[:20]
        count = seen[key] = seen.get(key, 0) + 1
        keys.append(key if count == 1 else f"{key}-{count}")
        digest.update(keys[-1].encode())
    return RowKeys(keys, digest.hexdigest()[:16])


def rows_digest(rows: Dataset) -> str:
    """Hash of the keys of prepared rows, in order: equal for the same rows of the same data."""
    hasher = hashlib.sha256()
    for batch in rows.select_columns("key").iter(batch_size=1000):
        hasher.update("\n".join(batch["key"]).encode())
    return hasher.hexdigest()[:16]


def hash_of(value: Any) -> str:
    """Hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
