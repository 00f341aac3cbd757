"""Parts are merged only if together they are exactly the whole, made from the same data with the same settings and model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from messages import refused
from spin_trl.errors import GenerationsError
from spin_trl.generation.answer import Asked, generate
from spin_trl.generation.engine import MicroBatch, Response, Sampling
from spin_trl.generation.merge import merge
from spin_trl.generation.parts import GenerationPart
from spin_trl.generation.store import GenerationStore

SAMPLING = Sampling(1.0, 1.0, 0, max_new_tokens=8, max_length=None, num_generations=2, batch_size=2, seed=0)
ROWS = Dataset.from_dict({"key": [f"row {row}" for row in range(10)], "prompt_ids": [[row] for row in range(10)]})
ASKED = Asked("d", "t", "m")


class Echo:
    """Engine that answers with the prompt and the seed."""

    name, version, repeats = "echo", "1.0", True

    def generate(self, batches: Any, sampling: Sampling) -> Any:
        for batch in batches:
            assert isinstance(batch, MicroBatch)
            yield batch.number, [Response([*prompt, batch.seed % 100], "eos") for prompt in batch.prompts]


def generated(
    folder: Path, part: GenerationPart | None = None, asked: Asked = ASKED, **changes: Any
) -> GenerationStore:
    store, sampling = GenerationStore(folder), dataclasses.replace(SAMPLING, **changes)
    generate(Echo(), ROWS, store, sampling, asked, iteration=3, part=part, disable_progress=True)
    return store


@pytest.fixture
def parts(tmp_path: Path) -> dict[GenerationPart, GenerationStore]:
    return {
        part: generated(tmp_path / part.name, part)
        for part in (GenerationPart(1, 3), GenerationPart(2, 3), GenerationPart(3, 3))
    }


def test_the_whole_equals_what_one_machine_generates(
    parts: dict[GenerationPart, GenerationStore], tmp_path: Path
) -> None:
    assert [len(store.missing_shards()) for store in parts.values()] == [6, 7, 7]
    assert all(store.is_complete(part) and not store.is_complete() for part, store in parts.items())
    one, whole = generated(tmp_path / "one"), GenerationStore(tmp_path / "whole")
    merge(parts, whole, ROWS, {"dataset": "d", "iteration": 3})
    files = [
        {path.name: path.read_bytes() for path in store.folder.iterdir() if path.suffix != ".jsonl"}
        for store in (one, whole)
    ]
    assert files[0] == files[1]
    assert whole.checksums() == one.checksums()
    merge(parts, whole, ROWS, {})  # as after an interrupt
    assert whole.table().equals(one.table())


def test_an_interrupted_merge_is_finished(parts: dict[GenerationPart, GenerationStore], tmp_path: Path) -> None:
    whole = GenerationStore(tmp_path / "whole")
    whole.adopt(parts[GenerationPart(1, 3)].manifest())
    whole.copy_shard(3, parts[GenerationPart(1, 3)])
    merge(parts, whole, ROWS, {})
    assert whole.is_complete()


def test_what_is_missing_is_named_with_the_parts_to_generate(
    parts: dict[GenerationPart, GenerationStore], tmp_path: Path
) -> None:
    (parts[GenerationPart(2, 3)].folder / "shard-00004.parquet").unlink()
    del parts[GenerationPart(3, 3)]
    whole = GenerationStore(tmp_path / "whole")
    with refused(GenerationsError, "4 shards of 10", "2, 4, 5, 8", "2/3, 3/3"):
        merge(parts, whole, ROWS, {})
    assert not whole.folder.exists()


def test_a_shard_in_two_parts_is_named(parts: dict[GenerationPart, GenerationStore], tmp_path: Path) -> None:
    parts[GenerationPart(1, 5)] = generated(tmp_path / "again", GenerationPart(1, 5))
    with refused(GenerationsError, "shard 0", "1/3", "1/5", "shard 5", "3/3"):
        merge(parts, GenerationStore(tmp_path / "whole"), ROWS, {})


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"temperature": 0.5}, "sampling"), ({"asked": Asked("d", "t", "other")}, "model"), ({"seed": 1}, "sampling")],
)
def test_a_part_made_otherwise_is_refused(
    changes: dict[str, Any], field: str, parts: dict[GenerationPart, GenerationStore], tmp_path: Path
) -> None:
    parts[GenerationPart(3, 3)] = generated(tmp_path / "other", GenerationPart(3, 3), **changes)
    with refused(GenerationsError, tmp_path / "other", field):
        merge(parts, GenerationStore(tmp_path / "whole"), ROWS, {})


def test_a_part_of_another_version_of_the_engine_is_refused(
    parts: dict[GenerationPart, GenerationStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Echo, "version", "2.0")
    parts[GenerationPart(3, 3)] = generated(tmp_path / "other", GenerationPart(3, 3))
    with refused(GenerationsError, tmp_path / "other", "engine_version", "'1.0'", "'2.0'"):
        merge(parts, GenerationStore(tmp_path / "whole"), ROWS, {})


def test_comparisons_of_servers_need_not_be_equal(
    parts: dict[GenerationPart, GenerationStore], tmp_path: Path
) -> None:
    """They are measured for each part."""
    for number, part in enumerate(parts):
        store = GenerationStore(tmp_path / "served" / part.name)
        generate(
            Echo(),
            ROWS,
            store,
            SAMPLING,
            ASKED,
            iteration=3,
            part=part,
            served={"apart": number},
            disable_progress=True,
        )
        parts[part] = store
    merge(parts, GenerationStore(tmp_path / "whole"), ROWS, {})
    assert GenerationStore(tmp_path / "whole").manifest()["served"] == {"apart": 0}


def test_parts_of_other_data_are_refused(parts: dict[GenerationPart, GenerationStore], tmp_path: Path) -> None:
    with refused(GenerationsError, "dataset", "'d'", "'e'"):
        merge(parts, GenerationStore(tmp_path / "whole"), ROWS, {"dataset": "e"})
    with refused(GenerationsError, "10 shards", 9):
        merge(parts, GenerationStore(tmp_path / "whole"), ROWS.select(range(9)), {})


def test_a_damaged_shard_is_named(parts: dict[GenerationPart, GenerationStore], tmp_path: Path) -> None:
    path = parts[GenerationPart(2, 3)].folder / "shard-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with refused(GenerationsError, path):
        merge(parts, GenerationStore(tmp_path / "whole"), ROWS, {})


@pytest.mark.parametrize(
    ("responses", "named"),
    [
        ([("row 1", 0)], ("row 1 (sample 1)",)),
        ([("row 1", 0), ("row 1", 0), ("row 1", 1)], ("row 1 (sample 0)",)),
        ([("row 1", 0), ("row 1", 1), ("row 7", 0)], ("row 7 (sample 0)",)),
    ],
)
def test_a_shard_with_other_responses_is_refused(
    responses: list[tuple[str, int]],
    named: tuple[str, ...],
    parts: dict[GenerationPart, GenerationStore],
    tmp_path: Path,
) -> None:
    store = parts[GenerationPart(2, 3)]
    store.write_shard(1, [(key, sample, Response([1], "eos")) for key, sample in responses])
    with refused(GenerationsError, "Shard 1", store.folder, *named):
        merge(parts, GenerationStore(tmp_path / "whole"), ROWS, {})


def test_the_manifest_counts_what_was_sampled_in_halves_in_all_parts(tmp_path: Path) -> None:
    """Memory ran out on one machine; the manifests still name the same work, and the whole has the sum."""

    class Halving(Echo):
        def generate(self, batches: Any, sampling: Sampling) -> Any:
            for number, responses in super().generate(batches, sampling):
                yield number, [dataclasses.replace(response, is_split=number in (2, 5)) for response in responses]

    stores = {}
    for part, engine in ((GenerationPart(1, 2), Halving()), (GenerationPart(2, 2), Halving())):
        stores[part] = GenerationStore(tmp_path / part.name)
        generate(engine, ROWS, stores[part], SAMPLING, ASKED, iteration=3, part=part, disable_progress=True)
    counts = [store.manifest().get("split") for store in stores.values()]
    assert counts == [SAMPLING.batch_size] * 2
    whole = GenerationStore(tmp_path / "whole")
    merge(stores, whole, ROWS, {})
    assert whole.manifest()["split"] == 2 * SAMPLING.batch_size
    assert "split" not in generated(tmp_path / "one").manifest()
