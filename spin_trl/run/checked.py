"""Whether files are as they were written, and which of them this machine has read before: weights are read for their
checksums once a machine."""

from __future__ import annotations

import contextlib
from pathlib import Path

from huggingface_hub import constants

from ..files import ADAPTER_CONFIG, Checksum, read_json, write_json

GONE = "is missing"
"""What is wrong with a file that is not there."""


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
    """What is wrong with a file, or None: it is as it was written.

    Args:
        path: of the file.
        written: its checksum, by [`files.checksums_in`].
        checked: files that this machine has read before, and need not be read again; None: the file is read.
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
    except (OSError, ValueError, TypeError) as error:  # a configuration of another shape
        return f"can't be read ({error})"
    return None if is_same else "is not what was written"
