"""Whether what a run's steps have made is still there, as it was written: by the checksums in the journal's entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import ADAPTER_CONFIG, Checksum
from .checked import CheckedFiles
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
        try:
            found = path.stat().st_size
            if path.name == ADAPTER_CONFIG:
                is_same = Checksum.of_adapter_config(path).sha256 == sha256
            elif found != size:
                yield Damage(path, f"has {found} bytes instead of {size}")
                continue
            else:
                is_large = path.suffix == _LARGE
                is_same = (checked.sha256(path) if is_large else Checksum.of(path).sha256) == sha256
        except FileNotFoundError:
            yield Damage(path, "is missing")
        except (OSError, ValueError) as error:
            yield Damage(path, f"can't be read ({error})")
        else:
            if not is_same:
                yield Damage(path, "is not what was written")
