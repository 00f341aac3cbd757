"""What the command says of an error, with which exit code it ends, and where the traceback goes.

Errors of this package, and what the operating system says of a path or a disk, are a message. Of any other error the message
names the exception and its last frame, and the traceback is kept in the run directory.
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
"""Environment variable; `1` shows the traceback of every error."""

_OF_PATHS = {
    errno.ENOENT: "Correct the path.",
    errno.ENOTDIR: "A file stands where a folder should be: name another path, or move the file.",
    errno.EISDIR: "A folder stands where a file should be: name another path, or move the folder.",
    errno.EEXIST: "Something else has this name: name another path, or move it.",
    errno.ELOOP: "A link leads to itself: remove it, or name another path.",
    errno.ENAMETOOLONG: "Use a shorter path.",
    errno.ENXIO: "It is no file that can be read: name another path.",
    errno.ENODEV: "It is no file that can be read: name another path.",
}
"""What to do about a path that the operating system refuses, by the error's number."""

_OF_MACHINES = {
    errno.EIO: "The disk has failed, or the file system of a network. Check it;",
    errno.ESTALE: "The file system of a network has lost the file. Check it;",
    errno.ENOTCONN: "The file system of a network is not connected. Mount it again;",
    errno.EMFILE: "Too many files are open. Raise the limit (`ulimit -n`);",
    errno.ENFILE: "Too many files are open on this machine. Close some;",
    errno.ENOMEM: "The machine has no memory left. Free some;",
}
"""What has failed where it is no matter of a path."""

MOST_BYTES = 1 << 20
"""Of the file of tracebacks, beyond which it begins again."""

_directory: Path | None = None


def note_run_directory(path: str | os.PathLike[str] | None) -> None:
    """Let tracebacks of this process go into a run directory, if it is one by then."""
    global _directory
    _directory = None if path is None else home_expanded(path)


def fail(error: BaseException) -> int:
    """Say what is wrong, and return the exit code. Whatever goes wrong meanwhile is passed over.

    Args:
        error: that ended the command.
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
    """Print a message of the command on stderr."""
    # Of several processes any one may be the only one that fails, and then nobody else knows why.
    process = rank()
    _print(f"spin-trl{'' if process == '0' else f' (process {process})'}: {printable(message)}\n")


def flushed(code: int) -> int:
    """Write what is still to be printed, and return the exit code: that of a failure where it can't be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # nobody reads what Python would try to write again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or fail(error)
    except ValueError:  # it is closed
        pass
    return code


def _print(text: str) -> None:
    # stderr may be closed, or a file on a disk that is full.
    with contextlib.suppress(OSError, ValueError):
        print(text, end="", file=sys.stderr, flush=True)


def _foreseen(error: BaseException) -> tuple[str, int] | None:
    """What to say of an error that is known, and its exit code; None of any other one."""
    # Long, since it lists what can go wrong, each with its own way out.
    full = full_disk(error)
    if full is not None:
        place = getattr(full, "filename", None) or getattr(error, "filename", None) or _directory
        where = f" at {place}" if place is not None else ""
        said = getattr(full, "strerror", None) or message_of(full)
        if os.strerror(errno.EFBIG) in said:
            return (
                f"A file is larger than its file system, or a limit of this user (`ulimit -f`), allows{where} ({said}). "
                "What was finished is kept: raise the limit or choose another disk, and run the same command again.",
                1,
            )
        return (
            f"The disk is full{where} ({said}). What was finished is kept: make room, or set `keep_iterations`, and run the "
            "same command again.",
            1,
        )
    if isinstance(error, SpinError):
        return message_of(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED_MESSAGE, INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return "What is printed can't be written: whoever read it has gone.", 1
    if isinstance(error, MemoryError):
        return (
            "There is not enough memory. What was finished is kept: smaller batches take less, and `spin-trl plan` says how "
            "much a run needs.",
            1,
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if error.errno in _OF_MACHINES:
        return f"{error}. {_OF_MACHINES[error.errno]} the same command goes on from what was finished.", 1
    if error.filename is None:
        return None
    if error.errno in FORBIDDEN:
        return f"This user may not do that: {error}. Choose another folder, or change its permissions.", 2
    if error.errno in _OF_PATHS:
        name = error.filename if isinstance(error.filename, int | str) else os.fsdecode(error.filename)
        return f"{str(name)[:300]} can't be used: {error.strerror}. {_OF_PATHS[error.errno]}", 2
    return None


def _unforeseen(error: BaseException) -> str:
    """What to say of an error that is not known: what it is, and where it was raised."""
    kind, said = type(error).__name__, message_of(error).strip()
    frames = [_frame_in_words(frame) for frame in traceback.extract_tb(error.__traceback__)]
    where = f" ({frames[-1]})" if frames else ""
    return f"Unexpected error, {kind}{f': {said}' if said else ''}{where}. What was finished is kept."


def _frame_in_words(frame: traceback.FrameSummary) -> str:
    """A frame, like `spin_trl/play/train.py:33 in train`."""
    path = Path(frame.filename)
    # os.path: a folder may be closed to this user, and whatever fails here would take the place of the error.
    package = next((parent for parent in path.parents if not os.path.isfile(parent / "__init__.py")), path.parent)
    shown = path.relative_to(package) if path.is_absolute() else path
    return f"{shown.as_posix()}:{frame.lineno} in {frame.name}"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # an exception of the user's code may be unable to say anything
        return "".join(traceback.format_tb(error.__traceback__)) + f"{type(error).__name__}\n"


def _keep(error: BaseException) -> Path | None:
    """Add the traceback to the file of them in the run directory; returns its path, or None: there is no place for it."""
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
        # Opened to be added to: several processes of a phase may fail together.
        with place.open("wb" if again else "ab") as file:
            file.write(hide(text).encode("utf-8", "backslashreplace"))
        return place
    except (OSError, ValueError, SpinError):  # a full disk, a marker that is damaged: stderr gets it
        return None
