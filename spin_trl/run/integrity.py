"""Whether what a run's steps have made is still there, as it was written: by the checksums in the journal's entries."""

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
"""How files end that are not read again where this machine has read them before."""

CARD = "README.md"
"""Written anew whenever there is more to say."""


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written.

    Attributes:
        path: where it is, or was.
        what: what is wrong with it.
    """

    path: Path
    what: str

    @property
    def is_missing(self) -> bool:
        """Whether nothing is there."""
        return self.what == GONE

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def recorded(folder: str, checksums: Mapping[str, Checksum]) -> dict[str, list[Any]]:
    """Checksums as an entry of the journal holds them.

    Args:
        folder: in the run directory, in which the files lie.
        checksums: of the files, by their paths in the folder.
    """
    return {
        f"{folder}/{name}": [checksum.size, checksum.sha256]
        for name, checksum in checksums.items()
        if PurePosixPath(name).name != CARD
    }


def damage(directory: RunDirectory, entry: Entry) -> Iterator[Damage]:
    """Yield what is damaged of what a step has made.

    Args:
        directory: of the run.
        entry: the journal's on the step. One of version 0.1.0 has no checksums, so nothing is found.
    """
    checked = CheckedFiles()
    for name, (size, sha256) in entry.get(CHECKSUMS, {}).items():
        path = directory.stage(name)
        is_large = path.suffix == _LARGE
        what = wrong_with(path, Checksum(size, sha256), checked if is_large else None)
        if what is not None:
            yield Damage(path, what)
