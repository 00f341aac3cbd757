"""What a dataset's columns hold, told from Arrow's values, without decoding pictures or reading all text."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
"""Texts that say true or false."""

_NOTHING = ("null", "[]", "{}", '""')
"""JSON that holds nothing."""


def first_filled(dataset: Dataset, column: str) -> int | None:
    """The first row (0-based) in which a column holds something; None if it is null or empty in all rows."""
    place = 0
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=1000):
        filled = _is_filled(table[column]).to_numpy(zero_copy_only=False)
        if filled.any():
            return place + int(filled.argmax())
        place += len(table)
    return None


def says_true_or_false(dataset: Dataset, column: str) -> bool:
    """Whether all of a column's values, but for nulls, are true or false, 0 or 1, or text that says so."""
    stored = _stored(dataset.data.column(column))
    if not _is_simple(stored.type):
        return False
    values = pc.unique(stored)
    if len(values) > len(TRUTHS) * 4:  # each text in a few ways to write it
        return False
    said = [value for value in values.to_pylist() if value is not None]
    if isinstance(dataset.data.column(column).type, pa.BaseExtensionType):
        said = [value for value in map(json.loads, said) if value is not None]
    return bool(said) and all(_is_truth(value) for value in said)


def _is_truth(value: Any) -> bool:
    return value.strip().lower() in TRUTHS if isinstance(value, str) else value in (0, 1)


def _is_simple(kind: pa.DataType) -> bool:
    kinds = pa.types
    return _is_text(kind) or any(is_it(kind) for is_it in (kinds.is_boolean, kinds.is_integer, kinds.is_floating))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Row by row, whether there is a value that is neither null nor empty."""
    is_json = isinstance(column.type, pa.BaseExtensionType)
    column = _stored(column)
    kind = column.type
    if is_json and _is_text(kind):
        filled = pc.invert(pc.is_in(column, value_set=pa.array(_NOTHING, kind)))
    elif _is_text(kind):
        filled = pc.greater(pc.binary_length(column), 0)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        filled = pc.greater(pc.list_value_length(column), 0)
    else:
        filled = pc.is_valid(column)
    return pc.and_(pc.fill_null(filled, False), pc.is_valid(column))


def _stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as Arrow stores it: text, where it is JSON."""
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
