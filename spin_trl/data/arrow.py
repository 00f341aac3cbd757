"""Reads and saves datasets in memory that does not grow with them."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from typing import Any

from datasets import Dataset

ROWS_PER_SHARD = 10_000
"""Rows of a dataset that are read through one mapping of its file when a part of them is saved."""


def rows_of(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The rows of a dataset, one after the other."""
    for batch in remapped(dataset).iter(batch_size=1000):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


def save_rows(rows: Dataset, folder: str | os.PathLike[str]) -> None:
    """Save rows as `Dataset.save_to_disk` does, in memory that does not grow with them.

    They go into shards, and each is read through a mapping of its own.
    """
    by_shard = copy.copy(rows)
    by_shard.shard = lambda **which: remapped(rows.shard(**which))
    # As many as the rows from which these may have been selected: a few of them lie all over the file, too.
    by_shard.save_to_disk(folder, num_shards=max(min(len(rows.data) // ROWS_PER_SHARD, len(rows)), 1))


def remapped(dataset: Dataset) -> Dataset:
    """The same dataset, with its files mapped into memory anew.

    Whatever was read from a mapped file counts as the process's memory until the file is unmapped. So what reads all rows
    once reads them through a mapping that goes when it is done.
    """
    if not dataset.cache_files or dataset.format["type"] == "custom":  # in memory, or with a function of the user's
        return dataset
    return pickle.loads(pickle.dumps(dataset))
