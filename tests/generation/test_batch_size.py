"""The number of responses that fit in memory together is worked out by hand."""

from __future__ import annotations

import pytest
from datasets import Dataset

from spin_trl.generation.batch_size import RowMemory, longest_rows
from spin_trl.generation.engine import Sampling

GIB = 2**30


@pytest.mark.parametrize(
    ("fixed", "at_prompt", "at_end", "free", "expected"),
    [
        (1, 0.2, 0.5, 40, 64),  # (0.9 * 40 - 1) / 0.5 = 70
        (1, 0.2, 0.5, 37, 64),  # (0.9 * 37 - 1) / 0.5 = 64.6: a machine with a little less memory agrees
        (1, 0.2, 0.5, 36, 32),  # (0.9 * 36 - 1) / 0.5 = 62.8
        (1, 2.0, 0.5, 40, 16),  # long prompts: (0.9 * 40 - 1) / 2 = 17.5
        (0, 0.001, 0.001, 80, 256),  # a shard's responses, at most
        (1, 0.2, 0.5, 1, 1),  # too little, but one response must be tried
    ],
)
def test_the_largest_power_of_two_that_fits(
    fixed: float, at_prompt: float, at_end: float, free: float, expected: int
) -> None:
    assert RowMemory(fixed * GIB, at_prompt * GIB, at_end * GIB).largest_batch(free * GIB) == expected


def test_what_two_prompts_take_more_than_one_is_a_rows_part() -> None:
    """The rest does not depend on the rows: 4-bit weights that are unpacked for every use, for example."""
    assert RowMemory.of_two(one=5.0, two=7.0, at_end=1.0) == RowMemory(fixed=3.0, at_prompt=2.0, at_end=1.0)


@pytest.mark.parametrize(
    ("max_new_tokens", "max_length", "expected"), [(5, None, (20, 25)), (None, 64, (20, 64)), (5, 22, (20, 22))]
)
def test_the_longest_rows_are_those_of_all_datasets(
    max_new_tokens: int | None, max_length: int | None, expected: tuple[int, int]
) -> None:
    datasets = [Dataset.from_dict({"prompt_ids": [[1] * length for length in some]}) for some in ([3, 9], [20], [])]
    sampling = Sampling(1.0, 1.0, 0, max_new_tokens, max_length, num_generations=1, batch_size=1, seed=0)
    assert longest_rows(datasets, sampling) == expected
