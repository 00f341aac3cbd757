"""A file of JSON lines that is only ever added to, by any number of processes, and says when it is damaged."""

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
    """A line is not what was written there.

    Args:
        path: of the file.
        number: of the line, from 1.
        why: what is wrong with it.
    """

    def __init__(self, path: Path, number: int, why: str) -> None:
        super().__init__(f"{path}, line {number}: {why}")
        self.path, self.number, self.why = path, number, why


class JsonLines:
    """Objects of JSON, a line each, oldest first. A file of which only more was written since is not read again.

    A last line without its end was being written when the machine died. It is passed over, and cut off before the next line
    is added; so are zeros behind the last line, which some file systems leave after a power cut. Any other line that holds
    no object, or not the one that was written, is damage.

    Args:
        path: of the file; it need not exist yet.
        wrong: says what is wrong with an object, or returns None.
    """

    def __init__(self, path: Path, wrong: Callable[[dict[str, Any]], str | None] = lambda found: None) -> None:
        self.path = path
        self._wrong = wrong
        self._found: list[dict[str, Any]] = []
        self._end = 0  # of the lines that were read
        self._last = b""  # of them, to see that the file is still the same
        self._lock = threading.RLock()  # what is pushed in the background is recorded, too

    def read(self) -> list[dict[str, Any]]:
        """All objects. They are shared with later calls, and must not be changed.

        Raises:
            DamagedLineError: a line holds something else.
        """
        with self._lock:
            try:
                with self.path.open("rb") as file:
                    file.seek(self._end - len(self._last))
                    if file.read(len(self._last)) != self._last:  # another file is there now
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
        """Add an object, and return when it is on the disk. Numbers that JSON doesn't know (NaN, infinity) become null.

        Raises:
            OSError: the disk is full. What stood in the file stays readable.
            DamagedLineError: an earlier line is damaged.
        """
        line = _with_checksum(json.dumps(_finite(value), allow_nan=False).encode()) + b"\n"
        with self._lock, self.path.open("ab") as file:
            # Two processes may write at the same time, and one would cut off the other's line.
            lock_file(file)
            self.read()
            file.truncate(self._end)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        line, is_same = _without_checksum(line)
        if not is_same:
            raise DamagedLineError(self.path, number, "it is not what was written")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DamagedLineError(self.path, number, f"no JSON ({error})") from error
        why = self._wrong(found) if isinstance(found, dict) else "no JSON object"
        if why is not None:
            raise DamagedLineError(self.path, number, why)
        return found


_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def lock_file(file: IO[Any], *, wait: bool = True) -> bool:
    """Lock an open file until it is closed, against every other process that locks it, on any machine.

    Args:
        file: opened for writing.
        wait: until nobody else has it.

    Returns:
        Whether it is locked; False: its file system keeps no locks.

    Raises:
        BlockingIOError: somebody else has it, and this call does not wait.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _with_checksum(line: bytes) -> bytes:
    """An object of JSON with its own checksum as its last member."""
    return line[:-1] + b', "crc32": "%08x"}' % zlib.crc32(line) if len(line) > 2 else line


def _without_checksum(line: bytes) -> tuple[bytes, bool]:
    """A line as it was before it got its checksum, and whether it is still that one. Version 0.1.0 wrote none."""
    found = _CRC32.search(line)
    if found is None:
        return line, True
    content = line[: found.start()] + b"}"
    return content, zlib.crc32(content) == int(found[1], 16)


def _finite(value: Any) -> Any:
    """A value of JSON with null in place of numbers that JSON doesn't know."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
