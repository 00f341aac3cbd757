"""The program that runs a server and ends it, with every process it started, when the run that owns it ends for any reason.

A run that is killed by SIGKILL can't end its servers, so this program stands between them. It holds the read end of a pipe
whose write end only the run holds: the pipe closes when the run closes it or ends. A forked worker of the run may have
inherited the write end, so the parent process is checked, too. A server's own processes may leave its process group, or
lose their parent; on Linux they then become children of this program, which ends only when it has no child left.

It is started as a file, with the standard library alone, so it takes no time to load and depends on nothing of the run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

CANT_START = 127
"""Exit code if the command can't be started, as in a shell."""

STILL_THERE = 221
"""Exit code if a process could not be ended, even by SIGKILL."""

SECONDS_AFTER_SIGKILL = 15.0
"""Seconds that processes may take to be gone after SIGKILL: a driver first frees a GPU's memory."""

_SECONDS_WITHOUT_SERVER = 2.0
"""Seconds that the server's other processes get after the server has ended."""

_SECONDS_BETWEEN_LOOKS = 0.5
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
"""Options of `prctl` (`linux/prctl.h`)."""

_IS_LINUX = sys.platform == "linux"


def watch(owner: int, grace: float, command: list[str]) -> int:
    """Run a command until it ends by itself, or its owner ends or closes this program's standard input.

    Args:
        owner: process id of the run.
        grace: seconds between SIGTERM and SIGKILL.
        command: command and arguments of the server.

    Returns:
        The command's exit code, or 128 plus the number of the signal that ended it; [`CANT_START`]; or [`STILL_THERE`].
    """
    woken = _wake_on_signals(signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    if _IS_LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=_end_with_watchdog if _IS_LINUX else None,
        )
    except OSError as error:
        _write_to_log(f"{command[0]!r} can't be started: {error}")
        return CANT_START
    children = Children(server.pid)
    try:
        while children.code is None and os.getppid() == owner:
            ready, _, _ = select.select([sys.stdin, woken], [], [], _SECONDS_BETWEEN_LOOKS)
            if sys.stdin in ready or (woken in ready and _told_to_end(woken)):
                break
            children.collect()
        if children.code is None:
            _write_to_log("ending the server")
    finally:
        children.end(grace)
    if children.collect():
        _write_to_log("a process of the server could not be ended")
        return STILL_THERE
    server.returncode = children.code  # otherwise Popen's finaliser would wait for a process that is gone
    return children.code if children.code is not None else STILL_THERE


class Children:
    """The server, and all processes that it has started.

    Args:
        server: process id of the server, which leads a process group.

    Attributes:
        code: exit code of the server, as a shell would report it; None while it runs.
    """

    def __init__(self, server: int) -> None:
        self.server = server
        self.code: int | None = None

    def collect(self) -> bool:
        """Collect the exit codes of processes that have ended. Return whether any process is left."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self.server:
                    code = os.waitstatus_to_exitcode(status)
                    self.code = code if code >= 0 else 128 - code
        return self._signal_group(0)

    def end(self, grace: float) -> None:
        """End all processes: the server's group by SIGTERM, and after `grace` seconds whatever is left by SIGKILL.

        Processes that outlive the server have a moment, in which multiprocessing removes shared memory.
        """
        self._signal_group(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while self.collect() and self.code is None and time.monotonic() < deadline:
            time.sleep(0.02)
        deadline = min(deadline, time.monotonic() + _SECONDS_WITHOUT_SERVER)
        while self.collect() and time.monotonic() < deadline:
            time.sleep(0.02)
        deadline = time.monotonic() + SECONDS_AFTER_SIGKILL
        while self.collect() and time.monotonic() < deadline:
            self._signal_group(signal.SIGKILL)
            for pid in descendants():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _signal_group(self, number: int) -> bool:
        """Send a signal to the server's group. Return whether it had a process."""
        try:
            os.killpg(self.server, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # macOS: all that is left are zombies
            return False
        return True


def descendants() -> Iterator[int]:
    """Yield the processes that descend from this one. Without `/proc` there are none to be found."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if _IS_LINUX else ():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if name.isdecimal():
                with open(f"/proc/{name}/stat", "rb") as file:
                    # The second field is the program's name in parentheses, which may itself contain any character.
                    parent = int(file.read().rpartition(b")")[2].split()[1])
                parents.setdefault(parent, []).append(int(name))
    waiting = [os.getpid()]
    while waiting:
        found = parents.get(waiting.pop(), [])
        yield from found
        waiting += found


def _end_with_watchdog() -> None:
    """Let the kernel send SIGTERM to the server if this program is killed. Runs in the server's process before it starts."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    # Where the kernel refuses, the process group and the run's own check remain.
    ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def _wake_on_signals(*numbers: signal.Signals) -> int:
    """Return a file descriptor to which the number of every signal that arrives is written."""
    woken, wakes = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the server would inherit
    return woken


def _told_to_end(woken: int) -> bool:
    return any(number != signal.SIGCHLD for number in os.read(woken, 1024))


def _write_to_log(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not keep the server running
        os.write(sys.stdout.fileno(), f"spin-trl: {text}\n".encode())


if __name__ == "__main__":
    sys.exit(watch(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
