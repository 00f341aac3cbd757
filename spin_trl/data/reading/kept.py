"""Cache rows of a user's files as Arrow files in the cache of `datasets`, never next to the user's files."""

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
"""Version of the readers: cached files of other versions are not used."""

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
    """Load rows of files from the cache, or read and cache them. Nothing is written next to the files.

    Args:
        files: files whose content identifies the cached rows.
        how: description of everything else that determines the rows.
        read: function that returns the features and the rows.
        remarks: function that returns remarks on the files once all rows are read; they are logged at every load.

    Raises:
        DataError: if `read` raises it, there are no rows, or the cache can't be written.
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

    left_out: list[str] = []

    def write(unfinished: BinaryIO) -> None:
        features, rows = read()
        left_out[:] = [column for column in features if "\0" in column]  # Arrow would end the name there
        features = Features({column: kind for column, kind in features.items() if column not in left_out})
        if not _write_rows(unfinished, features, rows):
            raise DataError(f"{files[0]} has no rows.")

    if not (is_whole(said) and is_whole(place)):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{place.parent}.lock"):
                if not (is_whole(said) and is_whole(place)):
                    drop(place)
                    note(place, write_atomically(place, write))
                    about = [_of_left_out(files[0], column) for column in left_out]
                    note(said, write_json(said, [*remarks(), *about]))
        except OSError as error:
            raise DataError(
                f"{files[0]} can't be read into the cache of `datasets`, {datasets.config.HF_DATASETS_CACHE}: {error}. Set "
                "HF_DATASETS_CACHE to a writable folder with enough space."
            ) from error
    for remark in read_json(said):
        logger.warning("%s", remark)
    dataset = Dataset.from_file(str(place))
    dataset._fingerprint = name[:16]
    return dataset


def _of_left_out(file: Path, column: str) -> str:
    return f"{file}: the column {column!r} is left out, because a column's name can't be stored with a NUL character."


def _write_rows(file: BinaryIO, features: Features, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows to an Arrow file and return their number."""
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
    """Iterate over rows with a progress bar of `datasets`."""
    return progress_bar(rows, desc=what, unit=" rows", leave=False, mininterval=1, delay=2)


def _storage(kind: pa.DataType) -> pa.DataType:
    """Return a type in which everything stored as JSON is replaced by text."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind.storage_type
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(part.name, _storage(part.type)) for part in kind])
    return pa.list_(_storage(kind.value_type)) if pa.types.is_list(kind) else kind


def apart(dataset: Any) -> Any:
    """Return the same dataset such that its caches are written to the cache of `datasets`; return other objects unchanged.

    `Dataset.map` and others write next to the files that a dataset was loaded from. After `load_from_disk`, that is the
    user's own folder, which may not even be writable. So the files are accessed through links in the cache.
    """
    files = dataset.cache_files if isinstance(dataset, Dataset) else []
    if all(_takes_caches(Path(file["filename"]).parent) for file in files):
        return dataset
    dataset = copy.copy(dataset)
    dataset._data = _linked(dataset._data)
    dataset._indices = None if dataset._indices is None else _linked(dataset._indices)
    return dataset


def _takes_caches(folder: Path) -> bool:
    """Return whether a folder is in the cache, is writable, and is not a dataset saved by a user."""
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
    """Create a link to a user's file in the cache; return the path itself if links can't be created.

    Args:
        path: target of the link.
        folder: folder of the link, below the cache's folder of links.
        name: name of the link in that folder. The same name must always be used for the same path.
    """
    path = Path(os.path.abspath(path))
    link = link_folder(folder) / name
    with contextlib.suppress(OSError):  # another process may be faster
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(path)
    return link if link.is_symlink() else path


def link_folder(name: str) -> Path:
    """Create a folder for links in the cache, or in a temporary folder if the cache is not writable."""
    for root in (_cache, _temporary):
        folder = root() / "links" / name
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            break
    return folder


@functools.cache
def _temporary() -> Path:
    """Create a folder for caches, if the cache of `datasets` is not writable. It is removed when the process exits."""
    folder = tempfile.mkdtemp(prefix="spin_trl-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
