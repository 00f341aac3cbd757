"""A folder in which nothing can be written, even by root, like a read-only mount or another user's folder."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate")

_refused: set[Path] = set()
_is_watched = False


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if not _refused:
        return
    writes = event == "open" and isinstance(args[2], int) and args[2] & WRITES
    if not writes and event not in CHANGES:
        return
    for place in (one for one in args[:2] if isinstance(one, str | os.PathLike)):
        if any(Path(os.path.abspath(place)).is_relative_to(folder) for folder in _refused):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(place))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make this process's writes in a folder fail with EROFS, as far as Python makes them."""
    global _is_watched
    if not _is_watched:
        sys.addaudithook(_refuse)  # it can't be removed again
        _is_watched = True
    _refused.add(Path(os.path.abspath(folder)))
    try:
        yield
    finally:
        _refused.discard(Path(os.path.abspath(folder)))
