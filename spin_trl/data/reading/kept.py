"""Rows of a user's files as Arrow files in the cache of `datasets`, and caches that never lie beside a user's dataset."""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import hashlib
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import datasets.config
import pyarrow as pa
from datasets import Dataset, Features
from datasets.arrow_writer import ArrowWriter
from datasets.table import ConcatenationTable, MemoryMappedTable, Table
from datasets.utils import tqdm as progress_bar
from filelock import FileLock

from ...errors import DataError
from ...files import read_json, short_digest, write_atomically, write_json
from ..caches import drop, is_whole, note
from .exact_json import with_json

logger = logging.getLogger(__name__)

READERS_VERSION = 2
"""Of the readers: what an earlier one wrote into the cache is not taken."""

_ROWS_AT_ONCE = 500
_REMARKS = "remarks.json"


def _cache() -> Path:
    return Path(os.path.abspath(datasets.config.HF_DATASETS_CACHE)) / "spin_trl"


def kept(
    files: Sequence[Path],
    how: str,
    read: Callable[[], tuple[Features, Iterable[dict[str, Any]]]],
    remarks: Callable[[], list[str]] = list,
) -> Dataset:
    """Rows that were read from files before, or else are read now and kept. Nothing is written beside the files.

    Args:
        files: whose content names what is kept.
        how: all else that decides what is read.
        read: returns the features, and the rows.
        remarks: what there is to say of the files, once all rows are read. It is said whenever they are loaded.

    Raises:
        DataError: of `read`; or there are no rows; or the cache can't be written.
    """
    named = f"{READERS_VERSION} {how}".encode()
    for file in files:
        try:
            with file.open("rb") as content:
                named += hashlib.file_digest(content, "sha256").digest()
        except OSError as error:
            raise DataError(f"{file} can't be read: {error.strerror or error}.") from error
    name = short_digest(named, 32)
    place = _cache() / name / "rows.arrow"
    said = place.parent / _REMARKS

    def write(unfinished: BinaryIO) -> None:
        if not _write_rows(unfinished, *read()):
            raise DataError(f"{files[0]} has no rows.")

    if not (is_whole(said) and is_whole(place)):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{place.parent}.lock"):
                if not (is_whole(said) and is_whole(place)):
                    drop(place)
                    note(place, write_atomically(place, write))
                    note(said, write_json(said, remarks()))
        except OSError as error:
            raise DataError(
                f"{files[0]} can't be read into the cache of `datasets`, {datasets.config.HF_DATASETS_CACHE}: {error}. Set "
                "HF_DATASETS_CACHE to a folder that can be written and has the space."
            ) from error
    for remark in read_json(said):
        logger.warning("%s", remark)
    dataset = Dataset.from_file(str(place))
    dataset._fingerprint = name[:16]
    return dataset


def _write_rows(file: BinaryIO, features: Features, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows into a file of Arrow's, and count them."""
    with ArrowWriter(features=features, stream=file) as writer:
        for table in _tables(features, rows):
            writer.write_table(table)
        if writer._num_examples:
            writer.finalize(close_stream=False)
        return int(writer._num_examples)


def _tables(features: Features, rows: Iterable[dict[str, Any]]) -> Iterator[pa.Table]:
    schema = pa.schema([pa.field(field.name, _storage(field.type)) for field in features.arrow_schema])
    as_json = {field.name: features[field.name] for field in features.arrow_schema if field not in schema}
    iterator = iter(with_progress(rows, "Reading rows"))
    while batch := list(itertools.islice(iterator, _ROWS_AT_ONCE)):
        if as_json:
            batch = [row | {name: with_json(row.get(name), part) for name, part in as_json.items()} for row in batch]
        yield pa.Table.from_pylist(batch, schema=schema)


def with_progress(rows: Iterable[dict[str, Any]], what: str) -> Iterable[dict[str, Any]]:
    """Rows, with a progress bar of `datasets` while they pass."""
    return progress_bar(rows, desc=what, unit=" rows", leave=False, mininterval=1, delay=2)


def _storage(kind: pa.DataType) -> pa.DataType:
    """The type with text in place of what is stored as JSON."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind.storage_type
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(part.name, _storage(part.type)) for part in kind])
    return pa.list_(_storage(kind.value_type)) if pa.types.is_list(kind) else kind


def apart(dataset: Any) -> Any:
    """The same dataset (or anything else that is given as one, as it is), whose caches go into the cache of `datasets`.

    `Dataset.map` and others write beside the files that a dataset was loaded from. That is the user's own folder after
    `load_from_disk`, which may not even be writable. So the files are reached through links in the cache.
    """
    files = dataset.cache_files if isinstance(dataset, Dataset) else []
    if all(_takes_caches(Path(file["filename"]).parent) for file in files):
        return dataset
    dataset = copy.copy(dataset)
    dataset._data = _linked(dataset._data)
    dataset._indices = None if dataset._indices is None else _linked(dataset._indices)
    return dataset


def _takes_caches(folder: Path) -> bool:
    """Whether a folder is one of the cache, holds no dataset that somebody saved there, and can be written."""
    is_of_cache = folder.is_relative_to(os.path.abspath(datasets.config.HF_DATASETS_CACHE))
    return is_of_cache and not (folder / "state.json").exists() and os.access(folder, os.W_OK)


def _linked(table: Table) -> Table:
    if isinstance(table, ConcatenationTable):
        return ConcatenationTable(table.table, [[_linked(block) for block in blocks] for blocks in table.blocks])
    file = Path(table.path) if isinstance(table, MemoryMappedTable) else None
    if file is None or _takes_caches(file.parent):
        return table
    link = link_to(file, short_digest(os.fsencode(file.parent)), file.name)
    return MemoryMappedTable(table.table, str(link), table.replays)


def link_to(path: Path, folder: str, name: str | os.PathLike[str]) -> Path:
    """A link to a file of the user's, in the cache, or the path itself where links can't be made.

    Args:
        path: what it leads to.
        folder: in which the link lies, below the cache's folder of links.
        name: of the link in there. The same name must always stand for the same path.
    """
    path = Path(os.path.abspath(path))
    link = link_folder(folder) / name
    with contextlib.suppress(OSError):  # another process may be faster
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(path)
    return link if link.is_symlink() else path


def link_folder(name: str) -> Path:
    """A folder for links, which is made: in the cache, or in a temporary one if that can't be written."""
    for root in (_cache, _temporary):
        folder = root() / "links" / name
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            break
    return folder


@functools.cache
def _temporary() -> Path:
    """A folder for caches where the cache of `datasets` can't be written. It goes with the process."""
    folder = tempfile.mkdtemp(prefix="spin_trl-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
