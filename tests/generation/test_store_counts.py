"""What a store holds is counted exactly, with one shard in memory at a time."""

from __future__ import annotations

import dataclasses
import tracemalloc
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, Features, List, Value

from messages import refused
from spin_trl.data.arrow import load_saved_rows, save_rows
from spin_trl.errors import GenerationsError
from spin_trl.generation.engine import Response
from spin_trl.generation.store import GenerationStore
from spin_trl.generation.store_counts import StoreCounts
from stores import MANIFEST

Written = list[tuple[str, int, Response]]


def written(folder: Path, shards: list[Written]) -> GenerationStore:
    store = GenerationStore(folder)
    store.open(dataclasses.replace(MANIFEST, num_shards=len(shards)))
    for number, responses in enumerate(shards):
        store.write_shard(number, responses)
    return store


def rows_with(real: Mapping[str, list[int]]) -> Dataset:
    return Dataset.from_dict({"key": list(real), "real_ids": list(real.values())})


REAL = {"a": [5, 6, 2], "b": [7], "c": [], "d": [8, 2], "e": [7]}


def two_samples(folder: Path) -> GenerationStore:
    """Return a store of two responses to each of four prompts, 13 tokens in 3 shards."""
    return written(
        folder,
        [
            [("b", 0, Response([7], "length")), ("b", 1, Response([7], "length"))],  # identical, both
            [
                ("a", 0, Response([5, 6, 2], "eos", is_split=True)),  # identical
                ("a", 1, Response([5, 6], "length", is_split=True)),  # its beginning
                ("c", 0, Response([], "length")),  # identical
                ("c", 1, Response([7], "length")),  # the real response of another prompt
            ],
            [("d", 0, Response([2, 8], "length", is_split=True)), ("d", 1, Response([8, 2, 2], "eos"))],
        ],
    )


@pytest.mark.parametrize("token", ["int32", "int64"])
def test_counts_are_those_worked_out_by_hand(token: str, tmp_path: Path) -> None:
    rows = rows_with(REAL).cast(Features({"key": Value("string"), "real_ids": List(Value(token))}))
    expected = StoreCounts(tokens=13, responses=8, identical=4, split=3)
    assert StoreCounts.of(two_samples(tmp_path / "store"), rows) == expected


def test_responses_are_compared_with_the_rows_that_are_selected(tmp_path: Path) -> None:
    """In any order, from files, and without the row of a response."""
    save_rows(rows_with(REAL), tmp_path / "rows")
    rows = load_saved_rows(tmp_path / "rows")
    store = two_samples(tmp_path / "store")
    assert StoreCounts.of(store, rows.select([4, 3, 1, 2, 0])).identical == 4
    assert StoreCounts.of(store, rows.select([4, 2, 0])).identical == 2
    assert StoreCounts.of(store, rows.select([])).identical == 0


def test_every_row_of_many_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read part by part, and parts batch by batch."""
    monkeypatch.setattr("spin_trl.generation.store_counts.ROWS_PER_SHARD", 1500)
    real = {f"row {row}": [row, row + 1] for row in range(3200)}
    store = written(tmp_path, [[(key, 0, Response(ids, "length")) for key, ids in real.items()]])
    assert StoreCounts.of(store, rows_with(real)) == StoreCounts(6400, 3200, 3200, 0)
    assert StoreCounts.of(store, rows_with({key: ids[::-1] for key, ids in real.items()})).identical == 0


def test_an_empty_store_has_no_responses(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"key": [], "real_ids": []})
    assert StoreCounts.of(written(tmp_path, []), rows) == StoreCounts(0, 0, 0, 0)


def test_a_store_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    store = two_samples(tmp_path / "store")
    (store.folder / "shard-00001.parquet").unlink()
    with refused(GenerationsError, store.folder, "1 of 3 shards"):
        StoreCounts.of(store, rows_with(REAL))


def test_a_shard_is_dropped_before_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[pa.Table]] = []
    read = GenerationStore._read

    def alone(*given: Any) -> pa.Table:
        assert all(shard() is None for shard in held)
        table = read(*given)
        held.append(weakref.ref(table))
        return table

    monkeypatch.setattr(GenerationStore, "_read", alone)
    StoreCounts.of(two_samples(tmp_path), rows_with(REAL))
    assert len(held) == 3


def test_a_prompt_takes_few_bytes(tmp_path: Path) -> None:
    """The list of its real response alone would take 800 bytes."""
    count, per_shard = 10_000, 250
    real = {f"{row:020x}": [row] * 100 for row in range(count)}
    made = [(key, 0, Response(ids[:50], "length")) for key, ids in real.items()]
    store = written(tmp_path / "store", [made[start : start + per_shard] for start in range(0, count, per_shard)])
    save_rows(rows_with(real), tmp_path / "rows")
    rows = load_saved_rows(tmp_path / "rows")
    del real, made
    StoreCounts.of(store, rows.select(range(300)))  # what is imported and cached once
    tracemalloc.start()
    try:
        counts = StoreCounts.of(store, rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counts == StoreCounts(50 * count, count, 0, 0)
    assert peak < 100 * count
