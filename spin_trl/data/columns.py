"""Determine the kind of data in a dataset, which of its columns are read, and whether they hold anything.

The content of a column is determined from Arrow's values, without decoding images or reading all text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from ..errors import DataError
from ..files import parse_json

PREPARED_COLUMNS = ("key", "prompt_hash", "prompt_ids", "real_ids", "prompt", "real")
"""Columns of a prepared dataset: identity, hash of the prompt, token ids, and the texts for scorers and samples. Another
column holds whatever else is needed to reconstruct the prompt ([`turns.CONVERSATION`])."""

SFT_COLUMNS = ("messages", "conversations", "prompt", "completion", "tools", "chat_template_kwargs")
"""Columns that determine a row's key, whether or not they are read. Version 0.1.0 read no others."""

_FORMS_OF_SFT = (("messages",), ("conversations",), ("prompt", "completion"), ("instruction", "output"))
"""Columns that hold prompts and responses."""

PROMPT_INPUT = "prompt_input"
"""Column of text to append to the prompt: the name of Alpaca's `input` if `instruction` was mapped to `prompt`."""

UNREADABLE = "unreadable_line"
"""Column of rows that represent unreadable lines of a file, if these may be left out: a description of the problem."""

ALPACA_COLUMNS = ("instruction", "input", "output")

_MEDIA = {"images": "images", "videos": "videos", "audios": "sound"}
MEDIA = _MEDIA | {name.removesuffix("s"): what for name, what in _MEDIA.items()}
"""Columns with content that a text model can't see, and names of that content."""

TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
"""Texts for true and false."""

_NOTHING = ("null", "[]", "{}", '""')
"""Empty values as JSON."""


def is_preference(dataset: Dataset | IterableDataset) -> bool:
    """Return whether the rows already are pairs: `chosen` and `rejected`, or `real` and `generated`."""
    columns = set(column_names(dataset))
    return {"chosen", "rejected"} <= columns or {"real", "generated"} <= columns


def is_sft(dataset: Dataset | IterableDataset) -> bool:
    """Return whether the rows are prompts with a human response, or were prepared from such rows."""
    columns = set(column_names(dataset))
    is_known = is_prepared(dataset) or any(columns.issuperset(names) for names in _FORMS_OF_SFT)
    return is_known and not is_preference(dataset) and not is_unpaired(dataset)


def is_prepared(dataset: Dataset | IterableDataset) -> bool:
    """Return whether the rows are already tokenised by [`prepare.prepare`] and need no further preparation."""
    return set(PREPARED_COLUMNS) <= set(column_names(dataset))


def is_unpaired(dataset: Dataset | IterableDataset) -> bool:
    """Return whether the rows are TRL's unpaired preferences, whose `label` marks completions as desirable or undesirable.

    In that case they are not all human responses. Labels are true and false or, in many files, 1 and 0, as numbers or text.
    """
    label = _feature(dataset, "label")
    if label is None or "completion" not in column_names(dataset):
        return False
    is_stated = getattr(label, "dtype", None) == "bool"
    return is_stated or (isinstance(dataset, Dataset) and says_true_or_false(dataset, "label"))


def is_text(dataset: Dataset | IterableDataset) -> bool:
    """Return whether prompts and completions are plain text in every row, to which no chat template is applied."""
    if not {"prompt", "completion"} <= set(column_names(dataset)) or _has_rows_without_completion(dataset):
        return False
    return is_string(_feature(dataset, "prompt"))


def read_columns(dataset: Dataset) -> list[str]:
    """Return the columns of an SFT dataset that are read, in a fixed order.

    If there are `messages` in addition to `prompt` and `completion`, they are read in rows without a completion.
    """
    columns = set(dataset.column_names)
    text = is_text(dataset)
    if {"prompt", "completion"} <= columns:
        read = ["messages", "conversations"] if _has_rows_without_completion(dataset) else []
        read += ["prompt", "completion", PROMPT_INPUT]
        if not text and not is_string(_feature(dataset, "history")):
            read.append("history")
    elif {"messages", "conversations"} & columns:
        read = ["messages", "conversations"]
    else:
        read = [*ALPACA_COLUMNS, "history"]
    if not text:
        read += ["system", "tools", "chat_template_kwargs"]
    return [column for column in (*read, UNREADABLE) if column in columns]


def with_input(column_mapping: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
    """Extend a column mapping such that Alpaca's `input` stays with the prompt, if `instruction` becomes the prompt.

    With any other prompt, `input` may mean anything, so it keeps its name.

    Args:
        column_mapping: mapping from the data's names to `prompt`, `completion`, ...
        columns: columns of the data.
    """
    mapping = dict(column_mapping)
    becomes_prompt = "prompt" in mapping.values() and "completion" in mapping.values()
    is_alpaca = mapping.get("instruction") == "prompt" and mapping.get("output") == "completion"
    if becomes_prompt:  # a column mapped to `input` is meant to belong to the prompt
        mapping = {old: PROMPT_INPUT if new == "input" else new for old, new in mapping.items()}
    is_free = PROMPT_INPUT not in {*mapping.values(), *columns}
    if is_alpaca and is_free and "input" in columns and "input" not in mapping:
        mapping["input"] = PROMPT_INPUT
    return mapping


def refuse_media(dataset: Dataset) -> None:
    """Raise DataError if a row has images, videos or sound: the model would learn answers to things that it can't see.

    Columns that are null or empty in all rows do not count.
    """
    for column in dataset.column_names:
        row = first_filled(dataset, column) if column in MEDIA else None
        if row is not None:
            pairs = ", or pass pairs (`images`, `prompt`, `chosen`, `rejected`)" if MEDIA[column] == "images" else ""
            where = f"the column `{column}` is not empty, first in row {row} of the dataset"
            raise DataError(f"Self-play on {MEDIA[column]} is not supported: {where}. Leave such rows out{pairs}.")


def as_preference(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Rename UCLA's columns `real` and `generated` to DPO's names; return other datasets unchanged."""
    columns = column_names(dataset)
    if {"real", "generated"} <= set(columns) and not {"chosen", "rejected"} & set(columns):
        return dataset.rename_columns({"real": "chosen", "generated": "rejected"})
    return dataset


def column_names(dataset: Dataset | IterableDataset) -> list[str]:
    return list(dataset.column_names or next(iter(dataset)))


def _has_rows_without_completion(dataset: Dataset | IterableDataset) -> bool:
    """Return whether there are conversations in addition to completions, some of which are missing."""
    if not {"messages", "conversations"} & set(column_names(dataset)):
        return False
    return not isinstance(dataset, Dataset) or dataset.data.column("completion").null_count > 0


def is_string(feature: object) -> bool:
    """Return whether a column's feature implies that all of its values are text (or null)."""
    return getattr(feature, "dtype", None) in ("string", "large_string", "string_view")


def _feature(dataset: Dataset | IterableDataset, column: str) -> Any:
    """Return the feature of a column, or None. `dataset.features` would copy the features of all columns."""
    return (dataset.info.features or {}).get(column)


def first_filled(dataset: Dataset, column: str) -> int | None:
    """Return the first row (0-based) in which a column is not empty; None if it is null or empty in all rows."""
    return filled_columns(dataset, [column]).get(column)


def filled_columns(dataset: Dataset, columns: Sequence[str]) -> dict[str, int]:
    """Return the first row in which each column is not empty, without columns that are always empty, in a single pass."""
    found: dict[str, int] = {}
    if not columns:
        return found
    place = 0
    for table in dataset.select_columns(list(columns)).with_format("arrow").iter(batch_size=1000):
        for column in columns:
            if column not in found and (filled := _is_filled(table[column]).to_numpy(zero_copy_only=False)).any():
                found[column] = place + int(filled.argmax())
        if len(found) == len(columns):
            break
        place += len(table)
    return found


def says_true_or_false(dataset: Dataset, column: str) -> bool:
    """Return whether all non-null values of a column are true or false, 0 or 1, or text for these."""
    stored = _stored(dataset.data.column(column))
    if not _is_text(stored.type) and not pa.types.is_primitive(stored.type):
        return False
    values = pc.unique(stored)
    if len(values) > len(TRUTHS) * 4:  # allows for a few spellings of each text
        return False
    said = [value for value in values.to_pylist() if value is not None]
    if isinstance(dataset.data.column(column).type, pa.BaseExtensionType):
        said = [value for value in map(parse_json, said) if value is not None]
    return bool(said) and all(_is_truth(value) for value in said)


def _is_truth(value: Any) -> bool:
    return value.strip().lower() in TRUTHS if isinstance(value, str) else value in (0, 1)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return, for each row, whether its value is neither null nor empty."""
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
    """Return a column as Arrow stores it: as text, if it is JSON."""
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
