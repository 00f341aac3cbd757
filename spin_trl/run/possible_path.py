"""Whether a path can be a run directory at all, whoever owns what lies there, and what the system refuses of it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import RunDirectoryError, full_disk

_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:/|::")
"""How fsspec, with which `datasets` saves rows, tells an address from a path. `Path` leaves one slash of two."""

_SHOWN_PATH = 300
"""Characters of a path, which may be as long as nobody reads."""


def check_path(path: Path) -> None:
    """Raise if a path can't be a folder of this machine in which a run is kept.

    Raises:
        RunDirectoryError: it is an address, a link to what is not there, no folder, or a name that files can't have.
    """
    # Long, since it lists every reason, each with its own way out.
    if "\0" in str(path):
        raise RunDirectoryError(f"{str(path)!r} can't be a run directory: no path holds NUL. Use another one.")
    if _ADDRESS.search(str(path)):
        raise RunDirectoryError(
            f"{path} can't be a run directory: `::` and what begins like `s3:/` are read as an address. Use a "
            "folder of this machine; `hub_backup` keeps a run on the Hub."
        )
    for link in (path, *path.parents):
        if os.path.islink(link) and not os.path.exists(link):
            raise RunDirectoryError(
                f"{path} can't be a run directory: {link} is a link to {os.readlink(link)}, which is not there. "
                "Make that folder or mount its disk, remove the link, or use another `run_dir`."
            )
    try:
        os.path.abspath(path).encode()
    except UnicodeEncodeError:
        raise RunDirectoryError(
            f"{path} can't be a run directory: its path is not UTF-8, so a run's files can't name it. Use another `run_dir`."
        ) from None
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # the command restarts in UTF-8; a Python session is the user's
        raise RunDirectoryError(
            f"{path} can't be a run directory here: file names are {sys.getfilesystemencoding()} in this process. "
            "Start Python with PYTHONUTF8=1, or use another `run_dir`."
        ) from None
    with refusing_path(path):
        if not stat.S_ISDIR(_mode_of(path)):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


@contextlib.contextmanager
def refusing_path(path: Path) -> Iterator[None]:
    """Say of whatever the operating system refuses that a path can't be a run directory.

    Raises:
        RunDirectoryError: it has refused something.
        FileNotFoundError: there is nothing at a path.
        OSError: the disk is full.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if full_disk(error) is not None:
            raise
        place = "" if error.filename in (None, str(path), path) else f" ({error.filename})"
        said = f"[Errno {error.errno}] {error.strerror}{place[:_SHOWN_PATH]}"
        raise RunDirectoryError(
            f"{str(path)[:_SHOWN_PATH]} can't be a run directory: {said}. Use another `run_dir`."
        ) from error


def _mode_of(path: Path) -> int:
    """What is at a path; where nothing is yet, a folder can be."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return stat.S_IFDIR
