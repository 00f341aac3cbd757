"""Holds prompts out: chosen by their hashes alone, all rows of one prompt on the same side."""

from __future__ import annotations

import heapq

from datasets import Dataset


def split_held_out(rows: Dataset, fraction: float, most: int) -> tuple[Dataset, Dataset]:
    """Split prepared rows into those to train on and held-out ones.

    The prompts with the smallest hashes are held out, so the choice depends on nothing but the prompts, and all rows of
    one prompt land on the same side.

    Args:
        rows: prepared rows.
        fraction: share of the distinct prompts to hold out; at least one, if there are two and the share is not 0.
        most: upper bound on their number.
    """
    prompts = set(rows["prompt_hash"])
    count = min(max(round(fraction * len(prompts)), 1), most, len(prompts) - 1) if fraction else 0
    held_out = set(heapq.nsmallest(count, prompts))
    sides: tuple[list[int], list[int]] = ([], [])
    for index, prompt in enumerate(rows["prompt_hash"]):
        sides[prompt in held_out].append(index)
    return rows.select(sides[0]), rows.select(sides[1])
