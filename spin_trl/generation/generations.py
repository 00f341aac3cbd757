"""Generations in memory: token ids by row, iteration and sample, read from stores or from a dataset of the user's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..counts import agreeing
from ..errors import GenerationsError
from ..files import parts_digest, short_digest
from .store import SCHEMA, GenerationStore

Name = tuple[str, int, int]
"""(key of the row, iteration, sample): identifies one generation of a run."""


class Generations(Mapping[Name, list[int]]):
    """Generated token ids by (key, iteration, sample), over any number of iterations.

    Args:
        tables: by iteration, a table with the columns of `SCHEMA` (`finish_reason` and `length` may be missing).

    Raises:
        GenerationsError: if two generations have the same name, or one holds what is no token id.
    """

    def __init__(self, tables: Mapping[int, pa.Table]) -> None:
        self._index: dict[Name, tuple[pa.Array, int]] = {}
        self.finish_reasons: dict[Name, str] = {}
        self._largest_id = -1
        for iteration, table in sorted(tables.items()):
            ids = pa.concat_arrays(table["ids"].chunks) if table.num_rows else pa.array([], SCHEMA.field("ids").type)
            self._largest_id = max(self._largest_id, _largest_id(ids, iteration))
            keys, samples = table["key"].to_pylist(), table["sample"].to_pylist()
            reasons = table["finish_reason"].to_pylist() if "finish_reason" in table.column_names else None
            for row, (key, sample) in enumerate(zip(keys, samples, strict=True)):
                name = (key, iteration, sample)
                if name in self._index:
                    raise GenerationsError(
                        f"There are two generations for row {key} (iteration {iteration}, sample {sample}). Number several "
                        "generations for one row in the column `sample`, from 0."
                    )
                self._index[name] = (ids, row)
                if reasons is not None:
                    self.finish_reasons[name] = reasons[row]
        self.digest = parts_digest(f"{name}{ids}" for name, ids in self.items())
        """Hash of the content: part of the fingerprint under which the opponent's log-probs are cached."""

    @classmethod
    def load(cls, stores: Mapping[int, GenerationStore]) -> Generations:
        """Read complete stores, by iteration."""
        return cls({iteration: store.table() for iteration, store in stores.items()})

    @classmethod
    def from_dataset(cls, dataset: Dataset, iteration: int = 0) -> Generations:
        """Read a dataset with the columns `key` and `ids`, and optionally `sample` and `finish_reason`.

        Raises:
            GenerationsError: if a column is missing or has the wrong type, or two generations have the same name.
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

    def check_ids(self, num_embeddings: int | None) -> None:
        """Raise if a token is unknown to a model, on whose device the embedding would fail without a reason.

        Args:
            num_embeddings: number of the model's token embeddings, or None if it is not known.

        Raises:
            GenerationsError: if an id is too large; the message gives the largest.
        """
        if num_embeddings is not None and self._largest_id >= num_embeddings:
            raise GenerationsError(
                f"The generations hold the token id {self._largest_id}, but the model has embeddings for the ids 0 to "
                f"{num_embeddings - 1}. {_WRONG_IDS}"
            )

    def merged(self, other: Generations, prefix: str = "") -> Generations:
        """Return these generations and others, whose keys get a prefix so that two datasets can share a prompt."""
        both = copy.copy(self)
        added = {(prefix + key, iteration, sample): place for (key, iteration, sample), place in other._index.items()}
        both._index = self._index | added
        both._largest_id = max(self._largest_id, other._largest_id)
        both.digest = short_digest(f"{self.digest}{prefix}{other.digest}")
        return both

    def __getitem__(self, name: Name) -> list[int]:
        ids, row = self._index[name]
        return ids[row].as_py()

    def __iter__(self) -> Iterator[Name]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


_WRONG_IDS = "They belong to another model, or their file is damaged: delete it, and generate again."


def _largest_id(ids: pa.ListArray, iteration: int) -> int:
    """Return the largest token id of an iteration's generations, or -1 if there are none.

    Raises:
        GenerationsError: if one is missing or below 0.
    """
    flat = ids.flatten()
    found = pc.min_max(flat).as_py()
    if ids.null_count or flat.null_count or (len(flat) and found["min"] < 0):
        wrong = "no token ids" if ids.null_count or flat.null_count else f"the token id {found['min']}"
        raise GenerationsError(f"The generations of iteration {iteration} hold {wrong}. {_WRONG_IDS}")
    return found["max"] if len(flat) else -1


GenerationSource: TypeAlias = str | Path | GenerationStore | Mapping[int, GenerationStore] | Generations | Dataset
"""A folder or store written by a generate phase; stores by iteration; generations; or a dataset with `key` and `ids`."""


def read_generations(source: GenerationSource, check: Callable[[GenerationStore], None]) -> Generations:
    """Read generations.

    Args:
        source: source of the generations.
        check: function called with the store of the newest iteration, whose model is the opponent; raises if it doesn't fit.

    Raises:
        GenerationsError: if they are missing, incomplete or damaged, or the check refuses them.
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
