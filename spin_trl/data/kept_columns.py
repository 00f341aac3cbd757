"""Columns of the source that prepared rows keep for a scorer, as they were before the row became tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ..files import parse_json
from .columns import is_prepared
from .keys import RowKeys, row_keys

KEPT_COLUMNS = "kept_columns"
"""Column of held-out rows: columns of the source as JSON, by name. It is absent if no scorer asks for any."""


def with_kept_columns(rows: Dataset, source: Dataset, columns: Sequence[str], keys: RowKeys | None = None) -> Dataset:
    """Return prepared rows with columns of their source in addition. Values that JSON does not have become text.

    Args:
        rows: prepared rows, all of which are held in memory for a moment.
        source: dataset that they were prepared from.
        columns: columns to keep; without any, the rows are returned unchanged.
        keys: keys of the source, if already computed.
    """
    if not columns:
        return rows
    wanted = [_key_of_row(key) for key in rows["key"]]
    known = source["key"] if is_prepared(source) else (keys or row_keys(source)).keys
    missing = set(wanted)
    place_of = {key: place for place, key in enumerate(known) if key in missing}
    chosen = source.select_columns(list(columns)).select([place_of[key] for key in wanted])
    kept = [json.dumps(dict(row), ensure_ascii=False, default=str) for row in chosen]
    return rows.add_column(KEPT_COLUMNS, kept, new_fingerprint=None)


def kept_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that a prepared row has kept, by name."""
    return dict(parse_json(row[KEPT_COLUMNS])) if KEPT_COLUMNS in row else {}


def _key_of_row(key: str) -> str:
    """Return the key of the source row that a response belongs to: of several turns, each has a number after a dot."""
    return key.partition(".")[0]
