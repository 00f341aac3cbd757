"""Whether what a run's steps have made is still there, as it was written: by the checksums in the journal's entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..checksums import ADAPTER_CONFIG, Checksum
from .directory import RunDirectory
from .journal import Entry

FILES = "files"
"""Where an entry has the files that its step has made: `{name in the run directory: [bytes, SHA-256]}`."""

WEIGHTS = ".safetensors"
"""How files end that are only looked at closely when they are loaded."""

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


def damage(directory: RunDirectory, entry: Entry, *, weights: bool = False) -> Iterator[Damage]:
    """Yield what is damaged of what a step has made.

    Args:
        directory: of the run.
        entry: the journal's on the step. One of version 0.1.0 has no checksums, so nothing is found.
        weights: look closely at weights, too, which takes a while; else only at their sizes.
    """
    for name, (size, sha256) in entry.get(FILES, {}).items():
        path = directory.stage(name)
        try:
            found = path.stat().st_size
            if path.name == ADAPTER_CONFIG:
                is_same = Checksum.of_adapter_config(path).sha256 == sha256
            elif found != size:
                yield Damage(path, f"has {found} bytes instead of {size}")
                continue
            else:
                is_same = (path.suffix == WEIGHTS and not weights) or Checksum.of(path).sha256 == sha256
        except FileNotFoundError:
            yield Damage(path, "is missing")
        except (OSError, ValueError) as error:
            yield Damage(path, f"can't be read ({error})")
        else:
            if not is_same:
                yield Damage(path, "is not what was written")
