"""Reads and saves datasets in memory that does not grow with them."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from datasets import Dataset, DatasetDict, load_from_disk
from fsspec.implementations.local import LocalFileSystem

from ..errors import DataError
from ..files import Checksum, HashedFile

ROWS_PER_SHARD = 10_000
"""Rows of a dataset that are read through one mapping of its file when a part of them is saved."""


def rows_of(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The rows of a dataset, one after the other."""
    for batch in remapped(dataset).iter(batch_size=1000):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


class HashedFolder(LocalFileSystem):
    """The file system of this machine, by another name: what is written to it is hashed on the way.

    Args:
        checksums: into which the checksums go, by path.
        settings: of a local file system.
    """

    protocol = ("hashed",)
    cachable = False  # two folders must not share their checksums

    def __init__(self, checksums: dict[Path, Checksum], **settings: Any) -> None:
        super().__init__(**settings)
        self.checksums = checksums

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("hashed://"))

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **settings: Any) -> Any:
        file = super()._open(path, mode, block_size, **settings)
        return _Noted(file, Path(path), self.checksums) if mode == "wb" else file


class _Noted(HashedFile):
    def __init__(self, file: Any, path: Path, checksums: dict[Path, Checksum]) -> None:
        super().__init__(file)
        self._path, self._checksums = path, checksums

    def close(self) -> None:
        self._checksums[self._path] = self.checksum
        super().close()


fsspec.register_implementation("hashed", HashedFolder, clobber=True)


def save_rows(rows: Dataset, folder: str | os.PathLike[str]) -> dict[Path, Checksum]:
    """Save rows as `Dataset.save_to_disk` does, in memory that does not grow with them.

    They go into shards, and each is read through a mapping of its own.

    Returns:
        The checksums of the files in the folder, by path.
    """
    checksums: dict[Path, Checksum] = {}
    by_shard = copy.copy(rows)
    by_shard.shard = lambda **which: remapped(rows.shard(**which))
    # As many as the rows from which these may have been selected: a few of them lie all over the file, too.
    num_shards = max(min(len(rows.data) // ROWS_PER_SHARD, len(rows)), 1)
    place = f"hashed://{Path(folder).absolute()}"
    by_shard.save_to_disk(place, num_shards=num_shards, storage_options={"checksums": checksums})
    return checksums


def load_saved(folder: str | os.PathLike[str]) -> Dataset | DatasetDict:
    """What `save_to_disk` has written into a folder.

    Raises:
        DataError: it can't be read; the message says why.
    """
    try:
        return load_from_disk(str(folder))
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError, pa.ArrowException) as error:
        # `datasets` takes the shape of its own JSON files for granted.
        raise DataError(
            f"{folder} was written by `Dataset.save_to_disk`, but can't be read: {type(error).__name__}: {error}"
        ) from error


def load_saved_rows(folder: str | os.PathLike[str]) -> Dataset:
    """The rows that [`save_rows`] has written into a folder.

    Raises:
        DataError: they can't be read; the message says why.
    """
    found = load_saved(folder)
    if not isinstance(found, Dataset):
        raise DataError(f"{folder} holds datasets by name; expected rows.")
    return found


def check_content(dataset: Dataset, name: str | os.PathLike[str]) -> None:
    """Raise if the values of a dataset are none of their types: text that is no UTF-8, lengths that lead out of a column.

    Arrow believes what a file says of itself. Whatever reads such a value later ends with an error of its own, or takes
    another value for it.

    Args:
        dataset: of a user's file.
        name: of the file, for the message.

    Raises:
        DataError: a value is damaged.
    """
    try:
        # Batch by batch, through a mapping of its own: what has been read counts as this process's memory.
        for batch in remapped(dataset).data.to_batches():
            batch.validate(full=True)
    except pa.ArrowException as error:
        raise DataError(f"{name} is damaged: {error}. Fetch or write it again.") from error


def remapped(dataset: Dataset) -> Dataset:
    """The same dataset, with its files mapped into memory anew.

    Whatever was read from a mapped file counts as the process's memory until the file is unmapped. So what reads all rows
    once reads them through a mapping that goes when it is done.
    """
    if not dataset.cache_files or dataset.format["type"] == "custom":  # in memory, or with a function of the user's
        return dataset
    return pickle.loads(pickle.dumps(dataset))
