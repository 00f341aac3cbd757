"""Read and save datasets with memory use that does not grow with their size."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_from_disk
from fsspec.implementations.local import LocalFileSystem

from ..errors import DataError
from ..files import Checksum, HashedFile, parse_json

ROWS_PER_SHARD = 10_000
"""Number of rows that are read through one memory mapping of a dataset's file when rows are saved."""


def rows_of(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a dataset."""
    for batch in remapped(dataset).iter(batch_size=1000):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


class HashedFolder(LocalFileSystem):
    """The local file system under another protocol name, which hashes files while they are written.

    Args:
        checksums: dict that receives the checksums by path.
        settings: settings of a local file system.
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
    """Save rows like `Dataset.save_to_disk`, with memory use that does not grow with their number.

    The rows are split into shards, and each shard is read through its own memory mapping.

    Returns:
        Checksums of the files in the folder, by path.
    """
    checksums: dict[Path, Checksum] = {}
    by_shard = copy.copy(rows)
    by_shard.shard = lambda **which: remapped(rows.shard(**which))
    # Based on all rows from which these may have been selected: even a few of them may be scattered all over the file.
    num_shards = max(min(len(rows.data) // ROWS_PER_SHARD, len(rows)), 1)
    place = f"hashed://{Path(folder).absolute()}"
    by_shard.save_to_disk(place, num_shards=num_shards, storage_options={"checksums": checksums})
    return checksums


def load_saved(folder: str | os.PathLike[str]) -> Dataset | DatasetDict:
    """Load a folder written by `save_to_disk`.

    Raises:
        DataError: if it can't be read; the message gives the reason.
    """
    try:
        return load_from_disk(str(folder))
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError, pa.ArrowException) as error:
        empty = _saved_without_rows(Path(folder))
        if empty is not None:
            raise DataError(f"{empty} has no rows.") from error
        # `datasets` does not validate the structure of its own JSON files.
        raise DataError(
            f"{folder} was written by `Dataset.save_to_disk`, but can't be read: {type(error).__name__}: {error}"
        ) from error


def _saved_without_rows(folder: Path) -> Path | None:
    """Return the first dataset saved in a folder that has no rows, which `datasets` can't load; None if there is none."""
    for state in sorted(folder.glob("**/state.json")):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if parse_json(state.read_text(encoding="utf-8")).get("_data_files") == []:
                return state.parent
    return None


def load_saved_rows(folder: str | os.PathLike[str]) -> Dataset:
    """Load the rows that [`save_rows`] has written to a folder.

    Raises:
        DataError: if they can't be read; the message gives the reason.
    """
    found = load_saved(folder)
    if not isinstance(found, Dataset):
        raise DataError(f"{folder} holds several named datasets; expected a single one.")
    return found


def is_without_rows(file: Path, form: str) -> bool:
    """Return whether a Parquet or Arrow file has columns but no rows, which `datasets` can't load. False if it is damaged.

    Args:
        file: the file.
        form: its format, `parquet` or `arrow`.
    """
    try:
        if form == "parquet":
            return bool(pq.read_metadata(file).num_rows == 0)
        with pa.memory_map(str(file)) as mapped:
            try:
                batches: Iterator[pa.RecordBatch] = iter(pa.ipc.open_stream(mapped))
            except pa.ArrowInvalid:
                reader = pa.ipc.open_file(mapped)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            return all(batch.num_rows == 0 for batch in batches)
    except (OSError, pa.ArrowException):  # loading it says what is wrong
        return False


def check_content(dataset: Dataset, name: str | os.PathLike[str]) -> None:
    """Raise if values of a dataset are invalid for their types: text that is not UTF-8, offsets outside of a column.

    Arrow trusts a file's metadata. Code that reads such a value later would fail with an unrelated error, or read another
    value.

    Args:
        dataset: dataset from a user's file.
        name: name of the file, for the message.

    Raises:
        DataError: if a value is damaged.
    """
    try:
        # Batch by batch, through a separate memory mapping: pages that have been read count as this process's memory.
        for batch in remapped(dataset).data.to_batches():
            batch.validate(full=True)
    except pa.ArrowException as error:
        raise DataError(f"{name} is damaged: {error}. Fetch or write it again.") from error


def remapped(dataset: Dataset) -> Dataset:
    """Return the same dataset with new memory mappings of its files.

    Pages read from a mapped file count as the process's memory until the file is unmapped. So code that reads all rows once
    should read them through a temporary mapping.
    """
    if not dataset.cache_files or dataset.format["type"] == "custom":  # in memory, or with a user's transform
        return dataset
    return pickle.loads(pickle.dumps(dataset))
