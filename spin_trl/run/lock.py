"""One process at a time plays a run, also where machines share a disk.

The lock is the operating system's, which also has it over NFS, and frees it whatever its process ends by. Some file systems
of clusters keep locks for one machine each, and some keep none. So whoever has the lock writes its machine and process into
the file, and touches it every few seconds: a process of another machine is known to be at it if the file goes on changing.
No clocks are compared, and what a machine that crashed has left there keeps nobody out.
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
"""After which whoever has a lock touches its file again."""

WATCHED_SECONDS = 20.0
"""For which a file is watched that names another machine. Its process may be busy for a few beats."""


@contextlib.contextmanager
def only_process(path: Path, directory: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock while the context lasts.

    Args:
        path: of the lock's file.
        directory: of the run, for messages.
        wait: seconds for which another process of this machine may still have it, since it is ending.

    Raises:
        RunDirectoryError: another process has it.
        OSError: the file can't be opened.
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
                "The file system of %s keeps no locks, so this process can be told from another one only by %s. Don't play "
                "one run from two places.",
                directory,
                path.name,
            )
        holder = _holder(path)
        if holder is not None and not (is_locked and holder["machine"] == socket.gethostname()):
            _refuse_while_it_changes(path, directory, holder)
        with _named(file, path):
            yield


def _refuse_while_it_changes(path: Path, directory: Path, holder: dict[str, Any]) -> None:
    """Raise if whoever a lock's file names is at it."""
    before = path.stat().st_mtime_ns
    logger.warning(
        "%s was last played by another process%s, which may still be at it. Whether it is will be known in %.0f seconds.",
        directory,
        _holder_in_words(holder),
        WATCHED_SECONDS,
    )
    deadline = time.monotonic() + WATCHED_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, WATCHED_SECONDS / 10))
        with path.open("rb"):  # file systems of a network look for a newer file only when one is opened
            now, there = path.stat().st_mtime_ns, _holder(path)
        if there is None:
            return  # it has ended meanwhile
        if now != before:
            raise RunDirectoryError(
                f"Another process{_holder_in_words(there)} is playing {directory}, which this machine shares with it. Wait "
                "for it, end it there, or use another run_dir. Once it has ended, however it did, the run goes on here."
            )


@contextlib.contextmanager
def _named(file: TextIO, path: Path) -> Iterator[None]:
    """Let a lock's file name this process, and change, while the context lasts. Another content stays as it is."""
    if os.fstat(file.fileno()).st_size and _holder(path) is None:
        yield
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(file.fileno())

    with contextlib.suppress(OSError):  # the lock holds without it
        _write(file, json.dumps({"machine": socket.gethostname(), "process": os.getpid()}) + "\n")
    thread = threading.Thread(target=beat, name="lock of the run", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            _write(file, "")


def _write(file: TextIO, text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _holder(path: Path) -> dict[str, Any] | None:
    """Whom a lock's file names; None if nobody, or if it was not written by a run."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() == {"machine", "process"} else None


def _holder_in_words(holder: dict[str, Any] | None) -> str:
    return "" if holder is None else f" ({holder['process']} on {holder['machine']})"
