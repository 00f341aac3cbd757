"""The number of responses that fit in a GPU's memory at the same time (`generation_batch_size: auto`).

It is calculated, not tried: accelerate's `find_executable_batch_size` would have to sample the longest responses once per
attempt, and would find another number whenever memory is a little more fragmented. But the sampled bytes depend on it. So
it is rounded down to a power of two, on which nearly equal machines agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from .engine import Sampling
from .work import SHARD_RESPONSES, prompt_lengths

SAMPLING = 20
FILTERED_SAMPLING = 46
"""Bytes per logit while a token is sampled: float32 copies, probabilities, random numbers; with `top_p` or `top_k` also the
sorted logits with their indices, and sums."""

USED_OF_FREE = 0.9
"""Share of the free memory to use: the allocator loses some to fragmentation, and kernels have workspaces."""


@dataclass(frozen=True)
class RowMemory:
    """The memory that generation takes in addition to the weights.

    Attributes:
        fixed: bytes that do not depend on the number of rows.
        at_prompt: bytes per row while the longest prompt is run.
        at_end: bytes per row while the last token of the longest response is sampled.
    """

    fixed: float
    at_prompt: float
    at_end: float

    @classmethod
    def of_two(cls, one: float, two: float, at_end: float) -> RowMemory:
        """Return the memory, given the bytes at the peak of running one prompt and two; `at_end` is per row."""
        at_prompt = max(two - one, 0.0)
        return cls(max(one - at_prompt, 0.0), at_prompt, at_end)

    def largest_batch(self, free: float) -> int:
        """Return the number of rows to generate together: a power of two, at most a shard's responses, at least 1.

        Args:
            free: bytes that are free, with the model loaded.
        """
        fitting = (USED_OF_FREE * free - self.fixed) / max(self.at_prompt, self.at_end, 1.0)
        if fitting < 1:
            return 1
        return min(2 ** (int(fitting).bit_length() - 1), SHARD_RESPONSES)


def bytes_per_logit(*, filters: bool) -> int:
    """Return the bytes that sampling takes per logit.

    Args:
        filters: whether `top_p` or `top_k` leaves out tokens.
    """
    return FILTERED_SAMPLING if filters else SAMPLING


def longest_rows(datasets: Sequence[Dataset], sampling: Sampling) -> tuple[int, int]:
    """Return the tokens of the longest prompt, and of the longest prompt with a response of maximum length.

    Args:
        datasets: prepared rows, with `prompt_ids`; some may be empty, but not all.
        sampling: settings with the limits of responses.
    """
    lengths = np.unique(np.concatenate([prompt_lengths(rows) for rows in datasets])).tolist()
    return max(lengths), max(length + sampling.limit(length) for length in lengths)
