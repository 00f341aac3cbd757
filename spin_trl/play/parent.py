"""Makes the processes started by a loop end with it, however it ends, even if it is killed and can't notify them.

The loop holds a named pipe open, and its processes wait for the pipe to close. It has a name since `accelerate launch` and
PyTorch's launcher close inherited file descriptors. Phases that are started by hand or by Slurm have no such pipe.

Imported before all slow imports, so this module must not import anything slow.
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
"""Environment variable of processes started by a loop: the path of the pipe that the loop holds open."""

_PREFIX = "spin-trl-"
"""Prefix of the name of the folder that contains the pipe."""

SECONDS_TO_END = 5
"""Seconds for a process to exit by itself, as after an interrupt. If its peers are gone, it may hang in a collective."""

SECONDS_TO_DIE = 8
"""Seconds after which the operating system ends a process that could not even end itself."""


@contextlib.contextmanager
def held_pipe() -> Iterator[dict[str, str]]:
    """Give environment variables for processes that are to end when this one does, or when the context is left.

    If a named pipe can't be created, there are no variables, and the processes do not end with this one.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = tempfile.mkdtemp(prefix=_PREFIX)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            path = os.path.join(folder, "loop")
            os.mkfifo(path)
            # Open both ends: opening only the write end would block until there is a reader.
            stack.callback(os.close, os.open(path, os.O_RDWR))
        except OSError:
            environment = {}
        else:
            environment = {PARENT_PIPE: path}
        yield environment


def end_with_parent() -> None:
    """Make this process end when the loop that started it does; do nothing if no loop started it."""
    path = os.environ.get(PARENT_PIPE)
    if path:
        # This process in turn ends all of its descendants.
        threading.Thread(target=_wait_for_end, args=(path,), name="end with the loop", daemon=True).start()


def _wait_for_end(path: str) -> None:
    try:
        pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(pipe, True)
        os.read(pipe, 1)  # nothing is ever written: this returns when no process holds the write end open
    except OSError:
        pass  # the pipe is already gone
    signal.alarm(SECONDS_TO_DIE)  # by default this ends the process, even if its interpreter is stuck
    _remove_pipe(path)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_END)
    _kill_children()
    os._exit(130)


def _remove_pipe(path: str) -> None:
    """Remove the pipe of a loop that was killed, and its folder. Any other path in the variable is left alone."""
    folder = os.path.dirname(path)
    with contextlib.suppress(OSError):
        if os.path.basename(folder).startswith(_PREFIX) and stat.S_ISFIFO(os.lstat(path).st_mode):
            os.unlink(path)
            os.rmdir(folder)


def _kill_children() -> None:
    import psutil  # here, since it is needed only now

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
