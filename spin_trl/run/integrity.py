"""Checks that the files written by a run's steps still exist and are unchanged, by the checksums in the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import Checksum
from .checked import GONE, CheckedFiles, wrong_with
from .directory import RunDirectory
from .journal import CHECKSUMS, Entry

_LARGE = ".safetensors"
"""Suffix of files that are not read again if this machine has read them before."""

CARD = "README.md"
"""The model card. It is rewritten during the run, so it has no checksum."""


@dataclass(frozen=True)
class Damage:
    """A file that is missing or has changed since it was written.

    Attributes:
        path: path of the file.
        what: description of the damage.
    """

    path: Path
    what: str

    @property
    def is_missing(self) -> bool:
        """Whether the file does not exist."""
        return self.what == GONE

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def recorded(folder: str, checksums: Mapping[str, Checksum]) -> dict[str, list[Any]]:
    """Return checksums in the form that a journal entry stores.

    Args:
        folder: folder of the files, inside the run directory.
        checksums: checksums of the files, by their paths in the folder.
    """
    return {
        f"{folder}/{name}": [checksum.size, checksum.sha256]
        for name, checksum in checksums.items()
        if PurePosixPath(name).name != CARD
    }


def damage(directory: RunDirectory, entry: Entry) -> Iterator[Damage]:
    """Yield the damaged files among those that a step has written.

    Args:
        directory: run directory.
        entry: journal entry of the step. Entries of version 0.1.0 have no checksums, so no damage is found.
    """
    checked = CheckedFiles()
    for name, (size, sha256) in entry.get(CHECKSUMS, {}).items():
        path = directory.stage(name)
        is_large = path.suffix == _LARGE
        what = wrong_with(path, Checksum(size, sha256), checked if is_large else None)
        if what is not None:
            yield Damage(path, what)
