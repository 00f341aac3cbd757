"""Processes that a loop has started end with it, however it ends: also where it was killed and could tell nobody.

The loop holds a named pipe open, and its processes wait for the pipe's end. By name, since `accelerate launch` and PyTorch's
launcher close what their own processes would inherit. Phases that are started by hand or by Slurm have no such pipe.

Imported before everything that takes time to import, so nothing here may.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator

PARENT_PIPE = "SPIN_TRL_LOOP"
"""Environment variable of processes that a loop has started: the pipe that it holds open."""

_PREFIX = "spin-trl-"
"""Of the name of the folder in which the pipe lies."""

SECONDS_TO_END = 5
"""That a process has to end by itself, as after an interrupt. A process whose peers are gone may hang in a collective."""

SECONDS_TO_DIE = 8
"""After which the operating system ends a process that could not even end itself."""


@contextlib.contextmanager
def held_pipe() -> Iterator[dict[str, str]]:
    """Give the environment of processes that are to end when this one does, or when the context is left.

    Where there can be no named pipe, they are told nothing, and end as they would on their own.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = tempfile.mkdtemp(prefix=_PREFIX)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            path = os.path.join(folder, "loop")
            os.mkfifo(path)
            # Both ends: opening only that for writing would wait for a reader.
            stack.callback(os.close, os.open(path, os.O_RDWR))
        except OSError:
            environment = {}
        else:
            environment = {PARENT_PIPE: path}
        yield environment


def end_with_parent() -> None:
    """Let this process end when the loop that has started it does; nothing happens where no loop has."""
    path = os.environ.get(PARENT_PIPE)
    if path:
        # Whatever this process starts in its turn is ended by it, with all that is below.
        threading.Thread(target=_wait_for_end, args=(path,), name="end with the loop", daemon=True).start()


def _wait_for_end(path: str) -> None:
    try:
        pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(pipe, True)
        os.read(pipe, 1)  # nothing is ever written: it returns when nobody holds the pipe open any more
    except OSError:
        pass  # it has gone already
    signal.alarm(SECONDS_TO_DIE)  # which ends a process by default, also one whose interpreter is stuck
    _remove_pipe(path)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    _kill_children()
    os._exit(130)


def _remove_pipe(path: str) -> None:
    """Remove the pipe of a loop that was killed, and its folder. Whatever else a variable of the environment names stays."""
    folder = os.path.dirname(path)
    with contextlib.suppress(OSError):
        if os.path.basename(folder).startswith(_PREFIX) and stat.S_ISFIFO(os.lstat(path).st_mode):
            os.unlink(path)
            os.rmdir(folder)


def _kill_children() -> None:
    import psutil  # here: nobody needs it before

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
