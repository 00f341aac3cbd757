"""Which kind of data a dataset holds, which of its columns are read, and whether there is something in them.

What a column holds is told from Arrow's values, without decoding pictures or reading all text.
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
"""Columns of a prepared dataset: identity, hash of the prompt, token ids, and the texts that scorers and samples show. What
else has to be known to write the prompt down again stands beside them ([`turns.CONVERSATION`])."""

SFT_COLUMNS = ("messages", "conversations", "prompt", "completion", "tools", "chat_template_kwargs")
"""Columns that decide a row's key, whether or not they are read. Version 0.1.0 read no others."""

_FORMS_OF_SFT = (("messages",), ("conversations",), ("prompt", "completion"), ("instruction", "output"))
"""Columns that hold prompts and responses."""

PROMPT_INPUT = "prompt_input"
"""Text that goes behind the prompt: what Alpaca's `input` is called where `instruction` was mapped to `prompt`."""

UNREADABLE = "unreadable_line"
"""Column of rows that stand for lines of a file that can't be read, where these may be left out: what is wrong with them."""

ALPACA_COLUMNS = ("instruction", "input", "output")

_MEDIA = {"images": "images", "videos": "videos", "audios": "sound"}
MEDIA = _MEDIA | {name.removesuffix("s"): what for name, what in _MEDIA.items()}
"""Columns that hold what a text model does not see, and what that is."""

TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
"""Texts that say true or false."""

_NOTHING = ("null", "[]", "{}", '""')
"""JSON that holds nothing."""


def is_preference(dataset: Dataset | IterableDataset) -> bool:
    """Whether the rows are pairs already: `chosen` and `rejected`, or `real` and `generated`."""
    columns = set(column_names(dataset))
    return {"chosen", "rejected"} <= columns or {"real", "generated"} <= columns


def is_sft(dataset: Dataset | IterableDataset) -> bool:
    """Whether the rows are prompts with a human response, or prepared from such rows."""
    columns = set(column_names(dataset))
    is_known = is_prepared(dataset) or any(columns.issuperset(names) for names in _FORMS_OF_SFT)
    return is_known and not is_preference(dataset) and not is_unpaired(dataset)


def is_prepared(dataset: Dataset | IterableDataset) -> bool:
    """Whether the rows are tokens already ([`prepare.prepare`]), which nothing prepares again."""
    return set(PREPARED_COLUMNS) <= set(column_names(dataset))


def is_unpaired(dataset: Dataset | IterableDataset) -> bool:
    """TRL's unpaired preferences: `label` says which completions are undesirable, so they are not all human responses.

    Its values are true and false, or, as many files have them, 1 and 0, as numbers or as text.
    """
    label = _feature(dataset, "label")
    if label is None or "completion" not in column_names(dataset):
        return False
    is_stated = getattr(label, "dtype", None) == "bool"
    return is_stated or (isinstance(dataset, Dataset) and says_true_or_false(dataset, "label"))


def is_text(dataset: Dataset | IterableDataset) -> bool:
    """Whether prompts and completions are plain text in every row, which no chat template is put around."""
    if not {"prompt", "completion"} <= set(column_names(dataset)) or _has_rows_without_completion(dataset):
        return False
    return is_string(_feature(dataset, "prompt"))


def read_columns(dataset: Dataset) -> list[str]:
    """The columns that are read of an SFT dataset, in a fixed order.

    Where `prompt` and `completion` stand beside `messages`, the latter are read in rows without a completion.
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
    """A column mapping that keeps Alpaca's `input` with the prompt, where that is what `instruction` becomes.

    An `input` beside any other prompt may be anything, so it stays what it is called.

    Args:
        column_mapping: from the data's names to `prompt`, `completion`, ...
        columns: of the data.
    """
    mapping = dict(column_mapping)
    becomes_prompt = "prompt" in mapping.values() and "completion" in mapping.values()
    is_alpaca = mapping.get("instruction") == "prompt" and mapping.get("output") == "completion"
    if becomes_prompt:  # whoever maps a column to `input` means the one that belongs to the prompt
        mapping = {old: PROMPT_INPUT if new == "input" else new for old, new in mapping.items()}
    is_free = PROMPT_INPUT not in {*mapping.values(), *columns}
    if is_alpaca and is_free and "input" in columns and "input" not in mapping:
        mapping["input"] = PROMPT_INPUT
    return mapping


def refuse_media(dataset: Dataset) -> None:
    """Raise DataError if a row has images, videos or sound: answers to what the model does not see would be trained on.

    Columns of them that are null or empty in all rows are none.
    """
    for column in dataset.column_names:
        row = first_filled(dataset, column) if column in MEDIA else None
        if row is not None:
            pairs = ", or pass pairs (`images`, `prompt`, `chosen`, `rejected`)" if MEDIA[column] == "images" else ""
            where = f"the column `{column}` holds some, first in row {row} of the dataset"
            raise DataError(f"Self-play on {MEDIA[column]} is not supported: {where}. Leave such rows out{pairs}.")


def as_preference(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """UCLA's columns `real` and `generated` under DPO's names; other datasets as they are."""
    columns = column_names(dataset)
    if {"real", "generated"} <= set(columns) and not {"chosen", "rejected"} & set(columns):
        return dataset.rename_columns({"real": "chosen", "generated": "rejected"})
    return dataset


def column_names(dataset: Dataset | IterableDataset) -> list[str]:
    return list(dataset.column_names or next(iter(dataset)))


def _has_rows_without_completion(dataset: Dataset | IterableDataset) -> bool:
    """Whether conversations stand beside completions, some of which are missing."""
    if not {"messages", "conversations"} & set(column_names(dataset)):
        return False
    return not isinstance(dataset, Dataset) or dataset.data.column("completion").null_count > 0


def is_string(feature: object) -> bool:
    """Whether a column's feature says that all of its values are text (or null)."""
    return getattr(feature, "dtype", None) in ("string", "large_string", "string_view")


def _feature(dataset: Dataset | IterableDataset, column: str) -> Any:
    """What a column is stored as, or None. `dataset.features` would copy those of all columns, however many there are."""
    return (dataset.info.features or {}).get(column)


def first_filled(dataset: Dataset, column: str) -> int | None:
    """The first row (0-based) in which a column holds something; None if it is null or empty in all rows."""
    return filled_columns(dataset, [column]).get(column)


def filled_columns(dataset: Dataset, columns: Sequence[str]) -> dict[str, int]:
    """The first row in which a column holds something, of the columns that are not empty, in one pass over the rows."""
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
    """Whether all of a column's values, but for nulls, are true or false, 0 or 1, or text that says so."""
    stored = _stored(dataset.data.column(column))
    if not _is_text(stored.type) and not pa.types.is_primitive(stored.type):
        return False
    values = pc.unique(stored)
    if len(values) > len(TRUTHS) * 4:  # each text in a few ways to write it
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
