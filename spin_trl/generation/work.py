"""What there is to generate: fixed micro-batches of prompts, grouped into the shards that their responses are stored in.

Both depend only on the data and the settings, and take a few bytes a prompt, so that a million prompts fit in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

SHARD_RESPONSES = 256
"""Approximate maximum number of responses written together, which is what an interrupt can cost a process."""

MIN_SHARDS = 64
"""Number of shards to aim for, so that every process of a large launch has work."""


@dataclass(frozen=True)
class Task:
    """A response to generate: the row it answers, and its sample number."""

    row: int
    sample: int


class MicroBatches(Sequence[list[Task]]):
    """Fixed micro-batches of prompts of similar length, shortest prompts first. Every response is in exactly one.

    Args:
        lengths: tokens of every prompt, shape (rows,).
        num_generations: responses per prompt.
        batch_size: responses per micro-batch.
    """

    def __init__(self, lengths: Sequence[int] | NDArray[np.int32], num_generations: int, batch_size: int) -> None:
        self._order = np.argsort(np.asarray(lengths, dtype=np.int32), kind="stable").astype(np.uint32)
        self._num_generations, self.batch_size = num_generations, batch_size

    @property
    def num_responses(self) -> int:
        """The number of responses of all micro-batches."""
        return len(self._order) * self._num_generations

    def __len__(self) -> int:
        return -(-self.num_responses // self.batch_size)

    @overload
    def __getitem__(self, number: int) -> list[Task]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[Task]]: ...
    def __getitem__(self, number: int | slice) -> list[Task] | list[list[Task]]:
        numbers = range(len(self))[number]
        if isinstance(numbers, range):
            return [self[one] for one in numbers]
        start = numbers * self.batch_size
        places = range(start, min(start + self.batch_size, self.num_responses))
        by_row = (divmod(place, self._num_generations) for place in places)
        return [Task(int(self._order[place]), sample) for place, sample in by_row]


@dataclass(frozen=True)
class GenerationWork:
    """Everything that is generated into one store.

    Attributes:
        batches: the micro-batches.
        per_shard: micro-batches in a shard; the last shard may have fewer.
    """

    batches: MicroBatches
    per_shard: int

    @classmethod
    def of(cls, rows: Dataset, num_generations: int, batch_size: int) -> GenerationWork:
        """Return the work of answering prepared rows.

        Args:
            rows: prepared rows, with `prompt_ids`.
            num_generations: responses per prompt.
            batch_size: responses per micro-batch.
        """
        batches = MicroBatches(prompt_lengths(rows), num_generations, batch_size)
        return cls(batches, max(min(SHARD_RESPONSES // batch_size, len(batches) // MIN_SHARDS), 1))

    @property
    def num_shards(self) -> int:
        """The number of shards."""
        return -(-len(self.batches) // self.per_shard)

    def shard(self, number: int) -> range:
        """Return the numbers of a shard's micro-batches."""
        return range(len(self.batches))[number * self.per_shard : (number + 1) * self.per_shard]

    def shard_of(self, batch: int) -> int:
        """Return the number of the shard that holds a micro-batch."""
        return batch // self.per_shard

    def responses_in(self, shards: Sequence[int]) -> int:
        """Return the number of responses in these shards."""
        size = self.per_shard * self.batches.batch_size
        return sum(min(size, self.batches.num_responses - number * size) for number in shards)


def prompt_lengths(rows: Dataset) -> NDArray[np.int32]:
    """Return the number of tokens of every prompt, shape (rows,)."""
    found = np.zeros(len(rows), np.int32)
    start = 0
    for table in rows.select_columns(["prompt_ids"]).with_format("arrow").iter(batch_size=10_000):
        found[start : start + table.num_rows] = pc.list_value_length(table["prompt_ids"]).to_numpy()
        start += table.num_rows
    return found
