"""What a complete store holds, counted with one shard in memory at a time."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from ..data.arrow import ROWS_PER_SHARD, remapped
from .store import GenerationStore

DIGEST_BYTES = 16
"""Bytes of a response's digest. A million responses to a million rows have one that differs from all real responses and has
the digest of one by chance once in 10^26 runs."""


@dataclass(frozen=True)
class StoreCounts:
    """Numbers of responses and tokens in a store.

    Attributes:
        tokens: generated tokens.
        responses: responses.
        identical: responses that equal the real response of their row token by token.
        split: responses that were sampled in halves of their micro-batch.
    """

    tokens: int
    responses: int
    identical: int
    split: int

    @classmethod
    def of(cls, store: GenerationStore, rows: Dataset) -> StoreCounts:
        """Count what a store holds. Beside one shard, this takes `DIGEST_BYTES` bytes of memory a row.

        Args:
            store: a complete store.
            rows: prepared rows, with `key` and `real_ids`; a response to another row is identical to none.

        Raises:
            GenerationsError: if a shard is missing or damaged.
        """
        real = _real_digests(rows)
        total = np.zeros(3, np.int64)
        # `map` drops a shard before it asks for the next; the variable of a loop would hold both.
        for of_shard in map(functools.partial(_of_shard, real), store.shards()):
            total += of_shard
        tokens, responses, identical = total.tolist()
        return cls(tokens, responses, identical, store.split_responses())


def _of_shard(real: NDArray[np.bytes_], shard: pa.Table) -> NDArray[np.int64]:
    """Return a shard's numbers of tokens, of responses, and of those whose digest is among the sorted `real`."""
    made = np.array(list(_row_digests(shard, "ids")), real.dtype)
    is_real = np.searchsorted(real, made, "right") > np.searchsorted(real, made, "left")
    return np.array([pc.sum(shard["length"]).as_py() or 0, len(made), is_real.sum()], np.int64)


def _real_digests(rows: Dataset) -> NDArray[np.bytes_]:
    """Return the sorted digests of the real responses, shape (rows,)."""
    found = np.zeros(len(rows), f"S{DIGEST_BYTES}")
    columns, place = rows.select_columns(["key", "real_ids"]), 0
    for start in range(0, len(rows), ROWS_PER_SHARD):
        # Through a separate memory mapping: pages that have been read count as this process's memory.
        part = remapped(columns.select(range(start, min(start + ROWS_PER_SHARD, len(rows)))))
        for table in part.with_format("arrow").iter(batch_size=1000):
            for digest in _row_digests(table, "real_ids"):
                found[place] = digest
                place += 1
    found.sort()
    return found


def _row_digests(table: pa.Table, column: str) -> Iterator[bytes]:
    """Yield a digest of every row's key and of its token ids in a column, the same for every integer type."""
    ids = pc.list_flatten(table[column]).cast(pa.int64()).to_numpy()
    ends = np.cumsum(pc.list_value_length(table[column]).to_numpy(), dtype=np.int64).tolist()
    for key, start, end in zip(table["key"].to_pylist(), [0, *ends], ends, strict=False):
        yield hashlib.blake2b(key.encode() + b"\0" + ids[start:end].tobytes(), digest_size=DIGEST_BYTES).digest()
