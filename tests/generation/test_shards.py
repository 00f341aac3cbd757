"""Responses are collected until their shard is complete; until then, those that can't be repeated are kept in a file."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from datasets import Dataset

from messages import logged, refused
from spin_trl.generation.engine import Response
from spin_trl.generation.shards import OpenShards
from spin_trl.generation.store import GenerationStore, Manifest
from spin_trl.generation.work import GenerationWork

ROWS = Dataset.from_dict({"key": list("abcd"), "prompt_ids": [[1], [2], [3], [4]]})
ALL = GenerationWork(GenerationWork.of(ROWS, 1, 1).batches, per_shard=4)


@pytest.fixture
def store(tmp_path: Path) -> GenerationStore:
    store = GenerationStore(tmp_path / "store")
    store.open(Manifest("d", "t", "m", "server", 0, {}, num_rows=4, num_shards=1))
    return store


def opened(store: GenerationStore) -> tuple[OpenShards, list[int]]:
    """Open the shard again, as a resumed run does. Return it and the numbers of the micro-batches to do."""
    shards = OpenShards(store, ROWS, ALL, store.missing_shards())
    return shards, [batch.number for batch in shards.todo(lambda number: number)]


def test_a_shard_is_stored_in_order_when_its_last_response_is_there(store: GenerationStore) -> None:
    shards, todo = opened(store)
    assert todo == [0, 1, 2, 3]
    assert shards.lacking == 4
    for number in (2, 0, 3):
        shards.add(number, [Response([number], "eos")], keep=True)
        assert store.missing_shards() == [0]
    shards.add(1, [Response([7, 7], "length")], keep=True)
    assert store.missing_shards() == []
    table = store.table()
    assert table["key"].to_pylist() == list("abcd")
    assert table["ids"].to_pylist() == [[0], [7, 7], [2], [3]]
    assert table["finish_reason"].to_pylist() == ["eos", "length", "eos", "eos"]
    assert not store.kept(0).exists()
    assert shards._kept == shards._found == {}  # a million prompts would fill the memory


def test_kept_responses_are_not_asked_for_again(store: GenerationStore) -> None:
    shards, _ = opened(store)
    for number in (3, 1):
        shards.add(number, [Response([number], "eos")], keep=True)
    again, todo = opened(store)
    assert todo == [0, 2]
    assert again.lacking == 2
    again.add(2, [Response([2], "eos")], keep=True)
    third, todo = opened(store)
    assert todo == [0]
    third.add(0, [Response([0], "eos")], keep=True)
    assert store.table()["ids"].to_pylist() == [[0], [1], [2], [3]]


def test_a_full_disk_leaves_what_was_kept(store: GenerationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    shards, _ = opened(store)
    for number in range(3):
        shards.add(number, [Response([number], "eos")], keep=True)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "write_shard", full)
        with refused(OSError, errno.ENOSPC):
            shards.add(3, [Response([3], "eos")], keep=True)
    assert opened(store)[1] == [3]


def test_nothing_is_kept_for_an_engine_that_repeats(store: GenerationStore) -> None:
    shards, _ = opened(store)
    shards.add(0, [Response([0], "eos")], keep=False)
    assert not store.kept(0).exists()
    assert opened(store)[1] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b'{"batch": "0", "responses": []}',
        b'{"batch": 0, "responses": [[[1], "stop"]]}',
        b'{"batch": 0, "responses": [[[-1], "eos"]]}',
        b'{"batch": 0, "responses": [[[2147483648], "eos"]]}',
        b'{"batch": 0, "responses": [[1]]}',
        b'{"batch": 0, "responses": 3}',
    ],
)
def test_a_damaged_file_is_reported_and_its_prompts_are_answered_again(
    line: bytes, store: GenerationStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.kept(0).write_bytes(line + b"\n")
    assert opened(store)[1] == [0, 1, 2, 3]
    logged(caplog, store.kept(0), "line 1")
    assert not store.kept(0).exists()


def test_lines_that_do_not_fit_the_work_are_passed_over(store: GenerationStore) -> None:
    """They can only be those of other work, which the store's manifest excludes; a wrong sample must not be trained on."""
    store.kept(0).write_bytes(
        b'{"batch": 9, "responses": [[[1], "eos"]]}\n'
        b'{"batch": 1, "responses": []}\n'
        b'{"batch": 2, "responses": [[[5], "eos"]]}\n'
    )
    assert opened(store)[1] == [0, 1, 3]


def test_an_engine_that_gives_too_few_responses_is_found_out(store: GenerationStore) -> None:
    shards, _ = opened(store)
    with refused(ValueError, 1, 0):
        shards.add(0, [], keep=True)
