"""The work of a store is the same whenever it is computed, and takes a few bytes a prompt."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from spin_trl.generation.work import GenerationWork, MicroBatches, Task, prompt_lengths


def test_every_response_is_in_one_micro_batch_and_similar_lengths_are_together() -> None:
    lengths = [7, 1, 3, 3, 9, 2]
    batches = MicroBatches(lengths, num_generations=2, batch_size=4)
    tasks = [task for batch in batches for task in batch]
    assert sorted((task.row, task.sample) for task in tasks) == [
        (row, sample) for row in range(6) for sample in range(2)
    ]
    assert [[lengths[task.row] for task in batch] for batch in batches] == [[1, 1, 2, 2], [3, 3, 3, 3], [7, 7, 9, 9]]
    assert batches[1] == [Task(2, 0), Task(2, 1), Task(3, 0), Task(3, 1)]  # of equal lengths, the first row first


def test_the_last_micro_batch_may_be_smaller() -> None:
    batches = MicroBatches([1, 1, 1], num_generations=1, batch_size=2)
    assert [len(batch) for batch in batches] == [2, 1]
    assert batches[-1] == batches[1]
    with pytest.raises(IndexError):
        batches[2]
    assert len(MicroBatches([], num_generations=1, batch_size=2)) == 0


def rows(count: int) -> Dataset:
    return Dataset.from_dict(
        {"key": [str(row) for row in range(count)], "prompt_ids": [[1] * (row % 5) for row in range(count)]}
    )


def test_lengths_are_of_the_rows_that_are_selected() -> None:
    assert prompt_lengths(rows(8)).tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert prompt_lengths(rows(8).select([7, 3, 0])).tolist() == [2, 3, 0]
    assert prompt_lengths(rows(25_000)).sum() == 50_000


@pytest.mark.parametrize(
    ("count", "num_generations", "batch_size", "shards", "in_first"),
    [
        (1000, 1, 16, 63, 1),  # 63 micro-batches: not enough for 64 shards of more
        (6400, 1, 16, 67, 6),  # 400 micro-batches, 6 of them in a shard
        (100_000, 1, 16, 391, 16),  # 256 responses in a shard
        (10, 4, 4, 10, 1),
    ],
)
def test_shards_have_at_most_256_responses_and_there_are_at_least_64_if_possible(
    count: int, num_generations: int, batch_size: int, shards: int, in_first: int
) -> None:
    work = GenerationWork.of(rows(count), num_generations, batch_size)
    assert work.num_shards == shards
    assert len(work.shard(0)) == in_first
    assert [batch for shard in range(shards) for batch in work.shard(shard)] == list(range(len(work.batches)))
    assert all(work.shard_of(batch) == shard for shard in range(shards) for batch in work.shard(shard))
    assert work.responses_in(range(shards)) == count * num_generations
    last = sum(len(work.batches[batch]) for batch in work.shard(shards - 1))
    assert work.responses_in([shards - 1]) == last


def test_a_million_prompts_take_a_few_bytes_each() -> None:
    batches = MicroBatches(np.arange(1_000_000, dtype=np.int32) % 100, num_generations=2, batch_size=2)
    assert len(batches) == 1_000_000
    assert batches._order.nbytes == 4_000_000
    assert batches[999_999] == [Task(999_999, 0), Task(999_999, 1)]
