"""Derived Arrow files that are verified before use, and created again if damaged.

`datasets` uses any file in its cache that has the right name, so checksums of such files are stored next to them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..files import Checksum, read_json, remove, write_json

logger = logging.getLogger(__name__)

CACHES = "cache-*.arrow"
"""Pattern of files that `datasets` and TRL cache next to a dataset."""

_SUFFIX = ".checksum"
_OF_FOLDER = "checksums.json"


def note(path: Path, checksum: Checksum | None = None) -> None:
    """Write a file's checksum next to it.

    Args:
        path: path of the file.
        checksum: checksum of the file; None: read the file to compute it.
    """
    checksum = checksum or Checksum.of(path)
    write_json(_beside(path), [checksum.size, checksum.sha256])


def note_all(paths: Iterable[Path]) -> None:
    """Write checksums next to files that have none yet."""
    for path in paths:
        if not _beside(path).exists():
            note(path)


def is_whole(path: Path) -> bool:
    """Return whether a file exists and matches the checksum next to it."""
    try:
        return _is_as_written(path, *read_json(_beside(path)))
    except (OSError, ValueError, TypeError):  # a file is missing, or the checksum is malformed
        return False


def drop_damaged(folder: Path, pattern: str) -> None:
    """Remove files that are damaged or have no checksum, so that they are created again, and checksums without a file.

    Args:
        folder: folder of the files.
        pattern: pattern of their names.
    """
    noted = [path.with_name(path.name.removesuffix(_SUFFIX)) for path in folder.glob(pattern + _SUFFIX)]
    for path in {*folder.glob(pattern), *noted}:
        if not is_whole(path):
            drop(path)


def drop(path: Path) -> None:
    """Remove a file and its checksum, so that it is created again; log a warning if it was damaged."""
    if path.exists() and _beside(path).exists():
        logger.warning("%s is damaged and will be created again.", path)
    remove(path)
    remove(_beside(path))


def mapped(dataset: Dataset, function: Any, new_fingerprint: str, **options: Any) -> Dataset:
    """Call `dataset.map(function)`, using cached files only if they are undamaged.

    Args:
        dataset: dataset to map.
        function: function for `Dataset.map`.
        new_fingerprint: fingerprint of the result, which also names its files in the cache.
        options: further options of `Dataset.map`.
    """

    if not dataset.cache_files:  # in memory
        return dataset.map(function, new_fingerprint=new_fingerprint, **options)
    folder = Path(dataset.cache_files[0]["filename"]).parent  # where `map` writes
    files = f"cache-{new_fingerprint}*.arrow"  # one per process
    drop_damaged(folder, files)
    result = dataset.map(function, new_fingerprint=new_fingerprint, **options)
    note_all(folder.glob(files))
    return result


def _is_as_written(path: Path, size: int, sha256: str) -> bool:
    return path.stat().st_size == size and Checksum.of(path).sha256 == sha256


def _beside(path: Path) -> Path:
    return path.with_name(path.name + _SUFFIX)


def note_folder(folder: Path, checksums: Mapping[Path, Checksum]) -> None:
    """Write the checksums of all files that were saved to a folder to one file in it."""
    found = {path.name: [checksum.size, checksum.sha256] for path, checksum in checksums.items()}
    write_json(folder / _OF_FOLDER, found)


def is_whole_folder(folder: Path) -> bool:
    """Return whether all files that were saved to a folder are undamaged."""
    try:
        found = read_json(folder / _OF_FOLDER)
        return bool(found) and all(_is_as_written(folder / name, *written) for name, written in found.items())
    except (OSError, ValueError, TypeError, AttributeError):  # checksums are missing or malformed
        return False
