"""Which kind of data a dataset holds, by its columns."""

from __future__ import annotations

from datasets import Dataset, IterableDataset

PREPARED_COLUMNS = ("key", "prompt_hash", "prompt_ids", "real_ids", "prompt", "real")
"""Columns of a prepared dataset: identity, hash of the prompt, token ids, and the texts that scorers and samples show. What
else has to be known to write the prompt down again stands beside them ([`conversations`])."""

SFT_COLUMNS = ("messages", "conversations", "prompt", "completion", "tools", "chat_template_kwargs")


def is_preference(dataset: Dataset | IterableDataset) -> bool:
    """Whether the rows are pairs already: `chosen` and `rejected`, or `real` and `generated`."""
    columns = set(column_names(dataset))
    return {"chosen", "rejected"} <= columns or {"real", "generated"} <= columns


def is_sft(dataset: Dataset | IterableDataset) -> bool:
    """Whether the rows are prompts with a human response, or prepared from such rows."""
    columns = set(column_names(dataset))
    known = {"messages"}, {"conversations"}, {"prompt", "completion"}, set(PREPARED_COLUMNS)
    return not is_preference(dataset) and not _is_unpaired(dataset) and any(names <= columns for names in known)


def _is_unpaired(dataset: Dataset | IterableDataset) -> bool:
    """TRL's unpaired preferences: a boolean `label` says which completions are undesirable, so no human responses."""
    label = (dataset.features or {}).get("label")
    return "completion" in column_names(dataset) and getattr(label, "dtype", None) == "bool"


def as_preference(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """UCLA's columns `real` and `generated` under DPO's names; other datasets as they are."""
    columns = column_names(dataset)
    if {"real", "generated"} <= set(columns) and not {"chosen", "rejected"} & set(columns):
        return dataset.rename_columns({"real": "chosen", "generated": "rejected"})
    return dataset


def column_names(dataset: Dataset | IterableDataset) -> list[str]:
    return list(dataset.column_names or next(iter(dataset)))
