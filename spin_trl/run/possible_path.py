"""Checks whether a path can be a run directory at all, regardless of its contents, and errors of the operating system."""

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
"""Matches what fsspec, used by `datasets` to save rows, takes for an address. `Path` collapses its two slashes into one."""

_SHOWN_PATH = 300
"""Maximum number of characters shown of a path, which may be very long."""


def check_path(path: Path) -> None:
    """Raise if a path can't be a local folder for a run.

    Raises:
        RunDirectoryError: if it is an address, a dangling link, not a folder, or not a valid file name.
    """
    # Long because it lists every reason, each with its own way out.
    if "\0" in str(path):
        raise RunDirectoryError(
            f"{str(path)!r} can't be a run directory: paths can't contain NUL. Use another `run_dir`."
        )
    if _ADDRESS.search(str(path)):
        raise RunDirectoryError(
            f"{path} can't be a run directory: a path with `::`, or that begins like `s3:/`, is treated as "
            "an address. Use a local folder; `hub_backup` keeps a copy of a run on the Hub."
        )
    for link in (path, *path.parents):
        if os.path.islink(link) and not os.path.exists(link):
            raise RunDirectoryError(
                f"{path} can't be a run directory: {link} is a link to {os.readlink(link)}, which does not exist. "
                "Create that folder or mount its disk, remove the link, or use another `run_dir`."
            )
    try:
        os.path.abspath(path).encode()
    except UnicodeEncodeError:
        raise RunDirectoryError(
            f"{path} can't be a run directory: the path is not valid UTF-8, so the run's files can't refer to it. Use "
            "another `run_dir`."
        ) from None
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # the command restarts itself in UTF-8; a Python session can't
        raise RunDirectoryError(
            f"{path} can't be a run directory: this process encodes file names as {sys.getfilesystemencoding()}. "
            "Start Python with PYTHONUTF8=1, or use another `run_dir`."
        ) from None
    with refusing_path(path):
        if not stat.S_ISDIR(_mode_of(path)):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


@contextlib.contextmanager
def refusing_path(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into the error that a path can't be a run directory.

    Raises:
        RunDirectoryError: if the operating system raised an error, other than the following.
        FileNotFoundError: if there is nothing at a path.
        OSError: if the disk is full.
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
    """Return the mode of what is at a path; that of a folder if nothing is there yet."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return stat.S_IFDIR
