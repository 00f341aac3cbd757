"""Turns an exception into a message and an exit code, and stores the traceback.

This package's errors, and the operating system's about paths and disks, give only a message. For any other error the message
names the exception and its last frame, and the traceback is written to the run directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from ..config.credentials import hide
from ..errors import FORBIDDEN, SpinError, full_disk, message_of
from ..files import home_expanded
from ..report.terminal import printable, shown_path
from ..run.contents import TRACEBACK
from ..run.ownership import Ownership
from .interrupts import INTERRUPTED, INTERRUPTED_MESSAGE

SHOWS_TRACEBACK = "SPIN_TRL_TRACEBACK"
"""Environment variable; if `1`, the traceback of every error is shown."""

_OF_PATHS = {
    errno.ENOENT: "Correct the path.",
    errno.ENOTDIR: "There is a file where a folder should be: use another path, or move the file.",
    errno.EISDIR: "There is a folder where a file should be: use another path, or move the folder.",
    errno.EEXIST: "The name is already in use: choose another path, or move what is there.",
    errno.ELOOP: "A symbolic link points to itself: remove it, or use another path.",
    errno.ENAMETOOLONG: "Use a shorter path.",
    errno.ENXIO: "It is not a readable file: use another path.",
    errno.ENODEV: "It is not a readable file: use another path.",
}
"""Advice for a path that the operating system refuses, by error number."""

_OF_MACHINES = {
    errno.EIO: "The disk or the network file system failed. Check it",
    errno.ESTALE: "The network file system lost the file. Check it",
    errno.ENOTCONN: "The network file system is not connected. Mount it again",
    errno.EMFILE: "Too many files are open. Raise the limit (`ulimit -n`)",
    errno.ENFILE: "Too many files are open on this machine. Close some",
    errno.ENOMEM: "The machine has run out of memory. Free some",
}
"""Cause and remedy of operating system errors that have nothing to do with a path, by error number."""

MOST_BYTES = 1 << 20
"""Size of the traceback file above which it is started over."""

_directory: Path | None = None


def note_run_directory(path: str | os.PathLike[str] | None) -> None:
    """Set the directory that this process writes tracebacks to, if it is a run directory by then."""
    global _directory
    _directory = None if path is None else home_expanded(path)


def fail(error: BaseException) -> int:
    """Print what is wrong and return the exit code. Errors while printing are ignored.

    Args:
        error: the error that ended the command.
    """
    found = _foreseen(error)
    message, code = found or (_unforeseen(error), 1)
    shows = os.environ.get(SHOWS_TRACEBACK, "") not in ("", "0")
    if found is None:
        kept = _keep(error)
        if kept is not None:
            message += f" The traceback is in {shown_path(kept)}."
        else:
            message += " The traceback follows."
            shows = True
    say(message)
    if shows:
        _print(hide(_traceback(error)))
    return code


def rank() -> str:
    """Return the number of this process among those that a launcher started, as the launcher wrote it; "0" without one."""
    return os.environ.get("RANK", "0")


def say(message: str) -> None:
    """Print one of the command's messages on stderr."""
    # Any one of several processes may be the only one that fails, and then only its own message says why.
    process = rank()
    _print(f"spin-trl{'' if process == '0' else f' (process {process})'}: {printable(message)}\n")


def flushed(code: int) -> int:
    """Flush stdout and return the exit code; if that fails, return the exit code of a failure."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # keeps Python from trying to flush it again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or fail(error)
    except ValueError:  # stdout is closed
        pass
    return code


def _print(text: str) -> None:
    # stderr may be closed, or redirected to a file on a full disk.
    with contextlib.suppress(OSError, ValueError):
        print(text, end="", file=sys.stderr, flush=True)


def _foreseen(error: BaseException) -> tuple[str, int] | None:
    """Return the message and exit code of an expected kind of error; None for any other error."""
    # Long, since it lists everything that can go wrong, each with its own way out.
    full = full_disk(error)
    if full is not None:
        place = getattr(full, "filename", None) or getattr(error, "filename", None) or _directory
        where = f" at {place}" if place is not None else ""
        said = getattr(full, "strerror", None) or message_of(full)
        if os.strerror(errno.EFBIG) in said:
            return (
                f"A file is larger than the file system or this user's limit (`ulimit -f`) allows{where} ({said}). "
                "Finished work is kept: raise the limit or use another disk, then run the same command to resume.",
                1,
            )
        return (
            f"The disk is full{where} ({said}). Finished work is kept: free some space, or set `keep_iterations`, then run "
            "the same command to resume.",
            1,
        )
    if isinstance(error, SpinError):
        return message_of(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED_MESSAGE, INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return "The output can't be written: the program that was reading it has exited.", 1
    if isinstance(error, MemoryError):
        return (
            "Out of memory. Finished work is kept. Smaller batches need less memory; `spin-trl plan` shows how much a run "
            "needs.",
            1,
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if error.errno in _OF_MACHINES:
        return f"{error}. {_OF_MACHINES[error.errno]}, then run the same command to resume.", 1
    if error.filename is None:
        return None
    if error.errno in FORBIDDEN:
        return f"The current user can't do this: {error}. Choose another folder, or change its permissions.", 2
    if error.errno in _OF_PATHS:
        name = error.filename if isinstance(error.filename, int | str) else os.fsdecode(error.filename)
        return f"{str(name)[:300]} can't be used: {error.strerror}. {_OF_PATHS[error.errno]}", 2
    return None


def _unforeseen(error: BaseException) -> str:
    """Return the message for an unexpected error: what it is and where it was raised."""
    kind, said = type(error).__name__, message_of(error).strip()
    frames = [_frame_in_words(frame) for frame in traceback.extract_tb(error.__traceback__)]
    where = f" ({frames[-1]})" if frames else ""
    return f"Unexpected error, {kind}{f': {said}' if said else ''}{where}. Finished work is kept."


def _frame_in_words(frame: traceback.FrameSummary) -> str:
    """Describe a frame, as in `spin_trl/play/train.py:33 in train`."""
    path = Path(frame.filename)
    # os.path, not pathlib: a folder may be unreadable, and an exception here would hide the original error.
    package = next((parent for parent in path.parents if not os.path.isfile(parent / "__init__.py")), path.parent)
    shown = path.relative_to(package) if path.is_absolute() else path
    return f"{shown.as_posix()}:{frame.lineno} in {frame.name}"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # an exception class in user code may fail to format itself
        return "".join(traceback.format_tb(error.__traceback__)) + f"{type(error).__name__}\n"


def _keep(error: BaseException) -> Path | None:
    """Append the traceback to the run directory's traceback file; return its path, or None if it can't be written."""
    if _directory is None:
        return None
    try:
        ownership = Ownership(_directory)
        if ownership.marker() is None:
            return None
        place = ownership.own(TRACEBACK)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        process = rank()
        text = f"{began}, process {process}: {' '.join(sys.argv[1:])}\n{_traceback(error)}\n"
        again = place.is_file() and place.stat().st_size > MOST_BYTES
        # In append mode: several processes of a phase may fail at the same time.
        with place.open("wb" if again else "ab") as file:
            file.write(hide(text).encode("utf-8", "backslashreplace"))
        return place
    except (OSError, ValueError, SpinError):  # such as a full disk or a damaged marker: stderr gets it instead
        return None
