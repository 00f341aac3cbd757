"""A store of generations keeps whole shards, records what they belong to, and refuses anything else."""

import dataclasses
import errno
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from messages import refused
from spin_trl.errors import GenerationsError
from spin_trl.generation.engine import Response
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import GenerationStore
from stores import MANIFEST


def test_what_is_written_is_read_back_as_the_same_tokens(store):
    generations = Generations.load({2: store})
    assert dict(generations) == {("a", 2, 0): [5, 6, 2], ("b", 2, 0): [7], ("c", 2, 0): []}
    assert generations.finish_reasons == {("a", 2, 0): "eos", ("b", 2, 0): "length", ("c", 2, 0): "length"}
    assert store.table()["length"].to_pylist() == [3, 1, 0]


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path, monkeypatch):
    """Timestamps contain colons; Arrow would take such a relative name for a URL."""
    monkeypatch.chdir(tmp_path)
    store = GenerationStore(Path("t12:30") / "generations")
    store.open(dataclasses.replace(MANIFEST, num_shards=1))
    store.write_shard(0, [("a", 0, Response([5, 6, 2], "eos"))])
    assert store.table()["ids"].to_pylist() == [[5, 6, 2]]


def test_a_store_is_complete_only_when_all_shards_are_there(store, tmp_path):
    assert store.is_complete()
    (store.folder / "shard-00001.parquet").unlink()
    assert not store.is_complete()
    assert store.missing_shards() == [1]
    with refused(GenerationsError, store.folder, "1 of 2 shards"):
        Generations.load({2: store})
    assert not GenerationStore(tmp_path / "nowhere").is_complete()


def test_shards_say_how_many_responses_were_sampled_in_halves(store):
    """A shard without any has no metadata, as in earlier versions."""
    response = Response([1], "eos")
    store.write_shard(0, [("a", 0, response), ("b", 0, dataclasses.replace(response, is_split=True))])
    store.write_shard(1, [("c", 0, response)])
    assert store.split_responses() == 1
    assert "split" not in store.manifest()
    store.note_split()
    assert store.manifest()["split"] == 1
    store.open(MANIFEST)  # which is still the same work
    assert store.table()["key"].to_pylist() == ["a", "b", "c"]
    assert pq.read_schema(store.folder / "shard-00001.parquet").metadata is None


@pytest.mark.parametrize("field", ["dataset", "template", "model", "engine", "iteration", "sampling", "num_rows"])
def test_a_store_of_something_else_is_refused_and_the_difference_named(store, field):
    other = dataclasses.replace(MANIFEST, **{field: "another"})
    with refused(GenerationsError, store.folder, f"{field}:", "'another'"):
        store.open(other)
    store.open(MANIFEST)  # the same is opened again


def test_a_store_names_the_opponent_and_goes_on_without_its_name(tmp_path):
    """The store was started by a version that recorded neither it nor the factor on the learning rate."""
    named = dataclasses.replace(MANIFEST, opponent="iteration-0", lr_scale=0.5)
    for folder, first in ((tmp_path / "old", MANIFEST), (tmp_path / "new", named)):
        GenerationStore(folder).open(first)
        GenerationStore(folder).open(named)
    assert not {"opponent", "lr_scale"} & set(GenerationStore(tmp_path / "old").manifest())
    found = GenerationStore(tmp_path / "new").manifest()
    assert (found["opponent"], found["lr_scale"]) == ("iteration-0", 0.5)


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with refused(GenerationsError, tmp_path / "generations.json", f"Errno {errno.ENOENT}"):
        GenerationStore(tmp_path).manifest()
    for other in ("[1]", "{}", '{"dataset": "d0"}'):
        (tmp_path / "generations.json").write_text(other, encoding="utf-8")
        with refused(GenerationsError, tmp_path / "generations.json", "manifest"):
            GenerationStore(tmp_path).manifest()


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_shards", [1]), ("num_shards", -1), ("iteration", "0"), ("format", [2]), ("sampling", None)],
)
def test_a_manifest_with_an_impossible_value_is_refused(field, value, store):
    path = store.folder / "generations.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**found, field: value}), encoding="utf-8")
    with refused(GenerationsError, path, f"`{field}` is {value!r}"):
        store.checksums()


@pytest.mark.parametrize("name", ["generations.json", "checksums.jsonl"])
def test_a_store_says_what_keeps_it_from_being_read(name, store, tmp_path):
    assert store.damage() is None
    assert GenerationStore(tmp_path / "nowhere").damage() is None
    (store.folder / name).write_text("[1]\n", encoding="utf-8")
    with refused(GenerationsError, name):
        raise store.damage()


def test_a_disk_that_fails_for_a_moment_has_damaged_nothing(store, monkeypatch):
    """What is damaged is removed and generated again."""

    def failing(path, encoding):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "read_text", failing)
    with refused(GenerationsError, "generations.json", f"Errno {errno.ESTALE}"):
        store.damage()


def test_a_damaged_shard_is_named_and_can_be_made_again(store):
    path = store.folder / "shard-00000.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert store.is_complete(), "the length does not show the damage"
    with refused(GenerationsError, path):
        store.table()
    path.unlink()
    assert store.missing_shards() == [0]


def test_a_shard_of_another_length_counts_as_missing(store):
    """It was truncated, or belongs to another store, so it is generated again."""
    path = store.folder / "shard-00000.parquet"
    path.write_bytes(path.read_bytes()[:40])
    assert store.missing_shards() == [0]
    store.write_shard(0, [("a", 0, Response([5, 6, 2], "eos")), ("b", 0, Response([7], "length"))])
    assert store.is_complete()
    assert store.table().num_rows == 3


def test_another_stores_shard_is_refused(store, tmp_path):
    """It is refused even with the same length and keys, but other answers."""
    other = GenerationStore(tmp_path / "other")
    other.open(MANIFEST)
    other.write_shard(0, [("a", 0, Response([5, 6, 3], "eos")), ("b", 0, Response([7], "length"))])
    path = store.folder / "shard-00000.parquet"
    assert path.stat().st_size == (other.folder / path.name).stat().st_size
    path.write_bytes((other.folder / path.name).read_bytes())
    with refused(GenerationsError, path):
        store.table()


def test_shards_without_their_checksums_are_made_again(store):
    """A process killed between writing the two has recorded nothing; a damaged list of checksums is reported."""
    checksums = store.folder / "checksums.jsonl"
    first, _ = checksums.read_text(encoding="utf-8").splitlines()
    checksums.write_text(first + "\n", encoding="utf-8")
    assert GenerationStore(store.folder).missing_shards() == [1]
    checksums.write_text('{"file": 3}\n', encoding="utf-8")
    with refused(GenerationsError, checksums, "line 1", "`file`"):
        GenerationStore(store.folder).missing_shards()


def test_a_store_of_version_0_1_0_has_no_checksums(store):
    """It is read unchecked; a shard that Arrow can't read is refused."""
    manifest, path = store.folder / "generations.json", store.folder / "shard-00000.parquet"
    found = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(
        json.dumps({name: value for name, value in found.items() if name != "format"}), encoding="utf-8"
    )
    (store.folder / "checksums.jsonl").unlink()
    earlier = GenerationStore(store.folder)
    assert earlier.checksums() is None
    assert earlier.table()["length"].to_pylist() == [3, 1, 0]
    path.write_bytes(path.read_bytes()[:40])
    with refused(GenerationsError, path, "Parquet"):
        earlier.table()


def test_a_full_disk_leaves_the_finished_shards_and_nothing_half_written(store, monkeypatch):
    before = Generations.load({2: store}).digest

    def full(table, file):
        file.write(b"half a shard")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with refused(OSError, f"Errno {errno.ENOSPC}"):
        store.write_shard(1, [("c", 0, Response([9], "eos"))])
    monkeypatch.undo()
    names = sorted(path.name for path in store.folder.iterdir())
    assert names == ["checksums.jsonl", "generations.json", "shard-00000.parquet", "shard-00001.parquet"]
    assert Generations.load({2: store}).digest == before
