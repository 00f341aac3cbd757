"""An append-only file of JSON lines that several processes may write, and that detects damage."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_CRC32 = re.compile(rb', "crc32": "([0-9a-f]{8})"\}$')


class DamagedLineError(ValueError):
    """A line is not JSON, does not match its checksum, or has unexpected contents.

    Args:
        path: path of the file.
        number: line number, from 1.
        why: description of what is wrong.
    """

    def __init__(self, path: Path, number: int, why: str) -> None:
        super().__init__(f"{path}, line {number}: {why}")
        self.path, self.number, self.why = path, number, why


class JsonLines:
    """JSON objects, one per line, oldest first. If the file has only grown since the last read, only the new part is read.

    A last line without a line end was being written when the machine died. It is ignored, and cut off before the next line
    is appended, and so are zeros after the last line, which some file systems leave after a power cut. Any other line that
    is not an object, or not the object that was written, counts as damage.

    Args:
        path: path of the file, which need not exist yet.
        wrong: function that returns what is wrong with an object, or None.
        is_synced: whether a line has reached the disk when it has been appended. If not, a kill loses nothing either, but a
            power cut may.
    """

    def __init__(
        self,
        path: Path,
        wrong: Callable[[dict[str, Any]], str | None] = lambda found: None,
        *,
        is_synced: bool = True,
    ) -> None:
        self.path = path
        self._wrong, self._is_synced = wrong, is_synced
        self._found: list[dict[str, Any]] = []
        self._end = 0  # offset of the end of the lines read so far
        self._last = b""  # last line read, to check that the file is still the same
        self._lock = threading.RLock()  # pushes in the background write records, too

    def read(self) -> list[dict[str, Any]]:
        """Return all objects. They are shared with later calls and must not be modified.

        Raises:
            DamagedLineError: if a line is damaged.
        """
        with self._lock:
            try:
                with self.path.open("rb") as file:
                    file.seek(self._end - len(self._last))
                    if file.read(len(self._last)) != self._last:  # the file has been replaced
                        self._found, self._end, self._last = [], 0, b""
                        file.seek(0)
                    rest = file.read()
            except (FileNotFoundError, NotADirectoryError):
                self._found, self._end, self._last = [], 0, b""
                return []
            *lines, tail = rest.split(b"\n")
            while lines and not (tail + lines[-1]).strip(b"\0"):
                tail += lines.pop()
            found = [*self._found]
            for line in lines:
                found.append(self._parsed(line, len(found) + 1))
            if lines:
                self._end += sum(len(line) + 1 for line in lines)
                self._found, self._last = found, lines[-1] + b"\n"
            return [*found]

    def append(self, value: dict[str, Any]) -> None:
        """Append an object and return when it is written (see `is_synced`).

        Numbers that JSON does not support (NaN, infinity) become null.

        Raises:
            OSError: if the disk is full. Earlier lines stay readable.
            DamagedLineError: if an earlier line is damaged.
        """
        line = _with_checksum(json.dumps(_finite(value), allow_nan=False).encode()) + b"\n"
        with self._lock, self.path.open("ab") as file:
            # Without the lock, two processes could write at the same time, and one would cut off the other's line.
            lock_file(file)
            self.read()
            file.truncate(self._end)
            file.write(line)
            file.flush()
            if self._is_synced:
                os.fsync(file.fileno())

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        line, is_same = _without_checksum(line)
        if not is_same:
            raise DamagedLineError(self.path, number, "the line does not match its checksum")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DamagedLineError(self.path, number, f"not JSON ({error})") from error
        why = self._wrong(found) if isinstance(found, dict) else "not a JSON object"
        if why is not None:
            raise DamagedLineError(self.path, number, why)
        return found


_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def lock_file(file: IO[Any], *, wait: bool = True) -> bool:
    """Lock an open file until it is closed, against all other processes that lock it, on any machine.

    Args:
        file: file opened for writing.
        wait: whether to wait until no other process holds the lock.

    Returns:
        Whether the file is locked; False if its file system does not support locks.

    Raises:
        BlockingIOError: if another process holds the lock and `wait` is False.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _with_checksum(line: bytes) -> bytes:
    """Add the checksum of a JSON object to it as its last member."""
    return line[:-1] + b', "crc32": "%08x"}' % zlib.crc32(line) if len(line) > 2 else line


def _without_checksum(line: bytes) -> tuple[bytes, bool]:
    """Remove the checksum from a line; also return whether it matches. Version 0.1.0 wrote no checksums."""
    found = _CRC32.search(line)
    if found is None:
        return line, True
    content = line[: found.start()] + b"}"
    return content, zlib.crc32(content) == int(found[1], 16)


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not support by null in a JSON value."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
