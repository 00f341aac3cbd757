"""What this machine has read and found whole, so that weights are read for their checksums once a machine."""

from __future__ import annotations

import contextlib
from pathlib import Path

from huggingface_hub import constants

from ..files import Checksum, read_json, write_json


class CheckedFiles:
    """Large files and what they were found to hold, by path, size and time of their last change.

    Args:
        path: of the file that remembers them, by default beside the Hub's cache. Where it can't be written, nothing is kept.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(constants.HF_HOME) / "spin_trl" / "checked.json"

    def sha256(self, path: Path) -> str:
        """The SHA-256 of a file, which is read unless it has been, and has not changed since.

        Raises:
            OSError: the file can't be read.
        """
        status = path.stat()
        key = [status.st_size, status.st_mtime_ns]
        known = self._known().get(str(path.resolve()))
        if isinstance(known, list) and known[:2] == key:
            return str(known[2])
        found = Checksum.of(path).sha256
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {**self._known(), str(path.resolve()): [*key, found]})
        return found

    def _known(self) -> dict[str, object]:
        try:
            found = read_json(self.path)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
