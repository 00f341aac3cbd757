"""A part of the shards is named as in `--shard`, and all parts together are all shards."""

from __future__ import annotations

import pytest

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.generation.parts import GenerationPart


@pytest.mark.parametrize(("num_shards", "count"), [(64, 8), (5, 2), (3, 4), (0, 2)])
def test_every_shard_is_in_one_part(num_shards: int, count: int) -> None:
    parts = [GenerationPart(number, count).shards(num_shards) for number in range(1, count + 1)]
    assert sorted(shard for part in parts for shard in part) == list(range(num_shards))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_is_parsed_and_named() -> None:
    part = GenerationPart.parse("3/8")
    assert part == GenerationPart(3, 8)
    assert (str(part), part.name) == ("3/8", "3-of-8")
    assert GenerationPart.parse("1/1").shards(4) == range(4)


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "3/", "/8", "a/b", "-1/8", "3/8/2", "3 / 8", "٣/٨", "1/9999999"])
def test_anything_else_is_refused(text: str) -> None:
    with refused(RecipeError, repr(text), "I/N"):
        GenerationPart.parse(text)
