"""Arrow files that are made from something else, and checked before they are taken: a damaged one is made again.

`datasets` takes whatever lies in its cache by the right name. So the checksums of such files lie beside them.
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
"""How `datasets` and TRL name what they keep beside a dataset."""

_SUFFIX = ".checksum"
_OF_FOLDER = "checksums.json"


def note(path: Path, checksum: Checksum | None = None) -> None:
    """Write a file's checksum beside it.

    Args:
        path: of the file.
        checksum: None: it is read.
    """
    checksum = checksum or Checksum.of(path)
    write_json(_beside(path), [checksum.size, checksum.sha256])


def note_all(paths: Iterable[Path]) -> None:
    """Write the checksums of those files beside them that have none yet."""
    for path in paths:
        if not _beside(path).exists():
            note(path)


def is_whole(path: Path) -> bool:
    """Whether a file is there as its checksum beside it says."""
    try:
        return _is_as_written(path, *read_json(_beside(path)))
    except (OSError, ValueError, TypeError):  # one of them is missing, or no checksum is what it says
        return False


def drop_damaged(paths: Iterable[Path]) -> None:
    """Remove those files that are not as they were written, or whose checksum is missing: they are made again."""
    for path in list(paths):
        if not is_whole(path):
            drop(path)


def drop(path: Path) -> None:
    """Remove a file, which is made again, with its checksum. If it was damaged, the log says so."""
    if path.exists() and _beside(path).exists():
        logger.warning("%s is damaged, and is made again.", path)
    remove(path)
    remove(_beside(path))


def mapped(dataset: Dataset, function: Any, new_fingerprint: str, **options: Any) -> Dataset:
    """`dataset.map(function)`, which takes what lies in the cache only if it is whole.

    Args:
        dataset: to map.
        function: of `Dataset.map`.
        new_fingerprint: names the result, and its files in the cache.
        options: further ones of `Dataset.map`.
    """

    def files() -> Iterable[Path]:
        folder = Path(dataset.cache_files[0]["filename"]).parent  # where `map` writes
        return folder.glob(f"cache-{new_fingerprint}*.arrow")  # one for each process

    if not dataset.cache_files:  # in memory
        return dataset.map(function, new_fingerprint=new_fingerprint, **options)
    drop_damaged(files())
    result = dataset.map(function, new_fingerprint=new_fingerprint, **options)
    note_all(files())
    return result


def _is_as_written(path: Path, size: int, sha256: str) -> bool:
    return path.stat().st_size == size and Checksum.of(path).sha256 == sha256


def _beside(path: Path) -> Path:
    return path.with_name(path.name + _SUFFIX)


def note_folder(folder: Path, checksums: Mapping[Path, Checksum]) -> None:
    """Write the checksums of all files that were saved into a folder into one file there."""
    found = {path.name: [checksum.size, checksum.sha256] for path, checksum in checksums.items()}
    write_json(folder / _OF_FOLDER, found)


def is_whole_folder(folder: Path) -> bool:
    """Whether all files that were saved into a folder are as they were written."""
    try:
        found = read_json(folder / _OF_FOLDER)
        return bool(found) and all(_is_as_written(folder / name, *written) for name, written in found.items())
    except (OSError, ValueError, TypeError, AttributeError):  # no checksums, or of another shape
        return False
