"""Locking: only one process at a time plays a run, even if machines share a disk.

The lock is the operating system's. It works over NFS, and is released however its process ends. On some cluster file
systems, locks only work within one machine, or not at all. So the process that holds the lock writes its machine and process
id into the file and touches it every few seconds; if the file keeps changing, a process on another machine is playing the
run. No clocks are compared, and a file left behind by a crashed machine locks nobody out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ..errors import RunDirectoryError
from ..files import parse_json
from ..json_lines import lock_file

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
"""Seconds between touches of the lock file by the process that holds it."""

CONFIRM_SECONDS = 2.0
"""Seconds after which a process that has named itself in a lock file looks whether another one has done so, too."""

WATCHED_SECONDS = 20.0
"""Seconds for which a lock file that names another machine is watched: several beats, since its process may be busy."""


@contextlib.contextmanager
def only_process(path: Path, directory: Path, wait: float = 0.0, *, confirms: bool = False) -> Iterator[None]:
    """Hold a lock for the duration of the context.

    Args:
        path: path of the lock file.
        directory: run directory, for messages.
        wait: seconds to wait for another process on this machine that is ending.
        confirms: whether processes on several machines may start at the same moment, on a file system where locks work
            within one machine at most. Then each takes a moment to see which of them has the lock.

    Raises:
        RunDirectoryError: if another process holds the lock.
        OSError: if the file can't be opened.
    """
    with path.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + wait
        while True:
            try:
                is_locked = lock_file(file, wait=False)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise RunDirectoryError(
                        f"Another process{_holder_in_words(_holder(path))} is playing {directory}. Wait for it, or use "
                        "another run_dir."
                    ) from None
                time.sleep(0.1)
        if not is_locked:
            logger.warning(
                "The file system of %s does not support locks, so other processes are detected only through %s. Don't play "
                "one run from two places at once.",
                directory,
                path.name,
            )
        holder = _holder(path)
        if holder is not None and not (is_locked and holder["machine"] == socket.gethostname()):
            _refuse_while_it_changes(path, directory, holder)
        with _named(file, path):
            if confirms:
                _confirm(path, directory)
            yield


def _this_process() -> dict[str, Any]:
    return {"machine": socket.gethostname(), "process": os.getpid()}


def _confirm(path: Path, directory: Path) -> None:
    """Raise if another process has named itself in the lock file after this one."""
    time.sleep(CONFIRM_SECONDS)
    with path.open("rb"):  # network file systems check for a newer file only on opening
        holder = _holder(path)
    if holder is not None and holder != _this_process():
        raise RunDirectoryError(
            f"Another process{_holder_in_words(holder)} has begun to work on {directory} at the same moment. It continues."
        )


def _refuse_while_it_changes(path: Path, directory: Path, holder: dict[str, Any]) -> None:
    """Raise if the process that a lock file names is still playing the run."""
    before = path.stat().st_mtime_ns
    logger.warning(
        "%s was last played by another process%s, which may still be running. Watching for %.0f seconds to find out.",
        directory,
        _holder_in_words(holder),
        WATCHED_SECONDS,
    )
    deadline = time.monotonic() + WATCHED_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, WATCHED_SECONDS / 10))
        with path.open("rb"):  # network file systems check for a newer file only on opening
            now, there = path.stat().st_mtime_ns, _holder(path)
        if there is None:
            return  # it has ended in the meantime
        if now != before:
            raise RunDirectoryError(
                f"Another process{_holder_in_words(there)} is playing {directory} on a shared disk. Wait for it, stop it "
                "there, or use another run_dir. Once it has ended for any reason, the run can be resumed here."
            )


@contextlib.contextmanager
def _named(file: TextIO, path: Path) -> Iterator[None]:
    """Make the lock file name this process and keep touching it during the context. Foreign contents are kept."""
    if os.fstat(file.fileno()).st_size and _holder(path) is None:
        yield
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(file.fileno())

    with contextlib.suppress(OSError):  # the lock works without it
        _write(file, json.dumps(_this_process()) + "\n")
    thread = threading.Thread(target=beat, name="lock of the run", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if _holder(path) == _this_process():  # otherwise another process was faster
            with contextlib.suppress(OSError):
                _write(file, "")


def _write(file: TextIO, text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _holder(path: Path) -> dict[str, Any] | None:
    """Return the holder that a lock file names; None if there is none, or the file was not written by a run."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() == {"machine", "process"} else None


def _holder_in_words(holder: dict[str, Any] | None) -> str:
    return "" if holder is None else f" ({holder['process']} on {holder['machine']})"
