"""Checks that files are unchanged since they were written. Checked files are remembered, so each machine reads weights only
once."""

from __future__ import annotations

import contextlib
from pathlib import Path

from huggingface_hub import constants

from ..files import ADAPTER_CONFIG, Checksum, read_json, write_json

CHANGED, GONE = "has changed since it was written", "is missing"
"""Faults of a file whose content does not match its checksum, and of one that does not exist."""


class CheckedFiles:
    """Known checksums of large files, by path, size and modification time.

    Args:
        path: file that stores the checksums, by default next to the Hub's cache. If it can't be written, nothing is stored.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(constants.HF_HOME) / "spin_trl" / "checked.json"

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file, which is read only if it is new or has changed.

        Raises:
            OSError: if the file can't be read.
        """
        status = path.stat()
        key = [status.st_size, status.st_mtime_ns]
        known = self._known().get(str(path.resolve()))
        if isinstance(known, list) and known[:2] == key:
            return str(known[2])
        found = Checksum.of(path).sha256
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            known_now = {name: value for name, value in self._known().items() if Path(name).exists()}
            write_json(self.path, {**known_now, str(path.resolve()): [*key, found]})
        return found

    def _known(self) -> dict[str, object]:
        try:
            found = read_json(self.path)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def wrong_with(path: Path, written: Checksum, checked: CheckedFiles | None = None) -> str | None:
    """Return what is wrong with a file; None if it is unchanged since it was written.

    Args:
        path: path of the file.
        written: checksum from [`files.checksums_in`].
        checked: checksums of files that this machine has read before; None: the file is always read.
    """
    try:
        found = path.stat().st_size
        if path.name == ADAPTER_CONFIG:
            is_same = Checksum.of_adapter_config(path).sha256 == written.sha256
        elif found != written.size:
            return f"has {found} bytes instead of {written.size}"
        else:
            is_same = (Checksum.of(path).sha256 if checked is None else checked.sha256(path)) == written.sha256
    except FileNotFoundError:
        return GONE
    except (OSError, ValueError, TypeError) as error:  # a configuration with unexpected contents
        return f"can't be read ({error})"
    return None if is_same else CHANGED
