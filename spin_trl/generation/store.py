"""Keeps generations as tokens: shards that appear whole or not at all, and a manifest that says what they belong to.

A store is a folder. `generations.json` is written first and names the dataset, model, template and sampling; shards are
Parquet files, written beside and renamed into place, so an interrupt costs at most the shards that were being made. A
store that was made from something else is refused instead of being trained on.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from ..counts import agreeing
from ..errors import GenerationsError
from ..files import parts_digest, short_digest, write_atomically, write_json
from .engine import Response

STORE_MANIFEST = "generations.json"
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "sample": pa.int32(),
        "ids": pa.list_(pa.int32()),
        "finish_reason": pa.string(),
        "length": pa.int32(),
    }
)

Name = tuple[str, int, int]
"""(key of the row, iteration, sample): names one generation of a run."""


@dataclass(frozen=True)
class Manifest:
    """What a store's generations belong to. Two stores of equal manifests hold the same work.

    Attributes:
        dataset: digest of the rows' keys.
        template: digest of the tokenizer and its template.
        model: digest of the opponent's weights.
        engine: what generates.
        iteration: 0-based.
        sampling: how.
        num_rows: prompts.
        num_shards: files, when all is done.
    """

    dataset: str
    template: str
    model: str
    engine: str
    iteration: int
    sampling: dict[str, Any]
    num_rows: int
    num_shards: int


class GenerationStore:
    """The generations of one iteration, in a folder.

    Args:
        folder: where; it need not exist yet.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def open(self, manifest: Manifest) -> None:
        """Start the store, or go on with one of the same manifest.

        Raises:
            GenerationsError: the folder holds generations of something else.
        """
        if (self.folder / STORE_MANIFEST).exists():
            self.check(asdict(manifest))
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / STORE_MANIFEST, asdict(manifest))

    def check(self, expected: Mapping[str, Any]) -> None:
        """Raise if the generations were made from something else, naming the first thing that differs.

        Args:
            expected: fields of a [`Manifest`].

        Raises:
            GenerationsError: with what was found and what was expected.
        """
        found = self.manifest()
        for name, value in expected.items():
            if found.get(name) != value:
                raise GenerationsError(
                    f"The generations in {self.folder} were made with another {name}: {found.get(name)!r} there, {value!r} "
                    "here. Use them with what they were made from, or generate into another folder."
                )

    def manifest(self) -> dict[str, Any]:
        """What the generations belong to.

        Raises:
            GenerationsError: the folder is no store.
        """
        try:
            found = json.loads((self.folder / STORE_MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GenerationsError(f"{self.folder} holds no generations ({STORE_MANIFEST}: {error}).") from error
        if not isinstance(found, dict) or not {field.name for field in fields(Manifest)} <= set(found):
            raise GenerationsError(f"{self.folder / STORE_MANIFEST} is no manifest of generations.")
        return found

    def has_shard(self, number: int) -> bool:
        """Whether a shard is done."""
        return self._shard(number).exists()

    def write_shard(self, number: int, responses: Iterable[tuple[str, int, Response]]) -> None:
        """Write a shard of (key, sample, response), whole or not at all."""
        rows = [(key, sample, made.ids, made.finish_reason, len(made.ids)) for key, sample, made in responses]
        table = pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA)
        # Arrow takes a relative path with a colon for an address.
        write_atomically(self._shard(number), lambda path: pq.write_table(table, path.absolute()))

    def is_complete(self) -> bool:
        """Whether the store exists and no shard is missing."""
        return (self.folder / STORE_MANIFEST).exists() and not self.missing_shards()

    def missing_shards(self) -> list[int]:
        """Numbers of the shards that are not done."""
        return [number for number in range(self.manifest()["num_shards"]) if not self.has_shard(number)]

    def table(self) -> pa.Table:
        """All generations, in the order of the shards; the columns of `SCHEMA`.

        Raises:
            GenerationsError: some are missing, or a shard is damaged.
        """
        missing = self.missing_shards()
        if missing:
            total = self.manifest()["num_shards"]
            raise GenerationsError(
                f"{self.folder} is not complete: {len(missing)} of {total} {agreeing(total, 'shard')} "
                f"{agreeing(len(missing), 'is', 'are')} missing. "
                "Run the generation again to finish it."
            )
        shards = []
        for number in range(self.manifest()["num_shards"]):
            try:
                shards.append(pq.read_table(self._shard(number).absolute(), schema=SCHEMA))
            except (OSError, pa.ArrowException) as error:
                raise GenerationsError(
                    f"{self._shard(number)} is damaged ({error}). Delete it and generate again: only it is made anew."
                ) from error
        return pa.concat_tables(shards) if shards else SCHEMA.empty_table()

    def _shard(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.parquet"


class Generations(Mapping[Name, list[int]]):
    """Generated token ids by (key, iteration, sample), over any number of iterations.

    Args:
        tables: by iteration, a table with the columns of `SCHEMA` (`finish_reason` and `length` may be missing).

    Raises:
        GenerationsError: two generations have the same name.
    """

    def __init__(self, tables: Mapping[int, pa.Table]) -> None:
        self._index: dict[Name, tuple[pa.Array, int]] = {}
        self.finish_reasons: dict[Name, str] = {}
        for iteration, table in sorted(tables.items()):
            ids = pa.concat_arrays(table["ids"].chunks) if table.num_rows else pa.array([], SCHEMA.field("ids").type)
            keys, samples = table["key"].to_pylist(), table["sample"].to_pylist()
            reasons = table["finish_reason"].to_pylist() if "finish_reason" in table.column_names else None
            for row, (key, sample) in enumerate(zip(keys, samples, strict=True)):
                name = (key, iteration, sample)
                if name in self._index:
                    raise GenerationsError(
                        f"There are two generations for the row {key} (iteration {iteration}, sample {sample}). Several for "
                        "one row are numbered in the column `sample`, from 0."
                    )
                self._index[name] = (ids, row)
                if reasons is not None:
                    self.finish_reasons[name] = reasons[row]
        self.digest = parts_digest(f"{name}{ids}" for name, ids in self.items())
        """Hash of the content: part of the fingerprint under which the opponent's log-probs are cached."""

    @classmethod
    def load(cls, stores: Mapping[int, GenerationStore]) -> Generations:
        """Read whole stores, by iteration."""
        return cls({iteration: store.table() for iteration, store in stores.items()})

    @classmethod
    def from_dataset(cls, dataset: Dataset, iteration: int = 0) -> Generations:
        """Read a dataset with the columns `key` and `ids`, and optionally `sample` and `finish_reason`.

        Raises:
            GenerationsError: a column is missing or of another type, or two generations have the same name.
        """
        missing = {"key", "ids"} - set(dataset.column_names)
        if missing:
            raise GenerationsError(
                f"`generations` has the columns {dataset.column_names}, but {' and '.join(sorted(missing))} "
                f"{agreeing(len(missing), 'is', 'are')} missing: generations are token ids (`ids`), each "
                "with the `key` of its row. Text that was generated elsewhere "
                "goes into the training dataset, as columns `real` and `generated`."
            )
        arrays = {"sample": pa.array([0] * len(dataset), SCHEMA.field("sample").type)}
        for name in [name for name in SCHEMA.names if name in dataset.column_names]:
            try:
                arrays[name] = pa.array(dataset[name][:], SCHEMA.field(name).type)
            except pa.ArrowException as error:
                raise GenerationsError(f"The column {name!r} of `generations` can't be read: {error}") from error
        return cls({iteration: pa.table(arrays)})

    def merged(self, other: Generations, prefix: str = "") -> Generations:
        """These generations and others, whose keys get a prefix so that two datasets can share a prompt."""
        both = copy.copy(self)
        added = {(prefix + key, iteration, sample): place for (key, iteration, sample), place in other._index.items()}
        both._index = self._index | added
        both.digest = short_digest(f"{self.digest}{prefix}{other.digest}")
        return both

    def __getitem__(self, name: Name) -> list[int]:
        ids, row = self._index[name]
        return ids[row].as_py()

    def __iter__(self) -> Iterator[Name]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


GenerationSource: TypeAlias = str | Path | GenerationStore | Mapping[int, GenerationStore] | Generations | Dataset
"""A folder or store that a generate phase wrote; stores by iteration; generations; or a dataset with `key` and `ids`."""


def read_generations(source: GenerationSource, check: Callable[[GenerationStore], None]) -> Generations:
    """Read generations.

    Args:
        source: where they are.
        check: called with the store of the newest iteration, whose model is the opponent; raises if it is another's.

    Raises:
        GenerationsError: they are missing, incomplete or damaged, or the check refuses them.
    """
    if isinstance(source, Generations):
        return source
    if isinstance(source, Dataset):
        return Generations.from_dataset(source)
    if isinstance(source, str | Path | GenerationStore):
        store = source if isinstance(source, GenerationStore) else GenerationStore(source)
        source = {store.manifest()["iteration"]: store}
    check(source[max(source)])
    return Generations.load(source)
