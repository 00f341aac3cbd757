"""Several servers at the same time: one per GPU, or per group of GPUs. Either all of them are ready, or all are ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from ...errors import LaunchError, noted
from .process import Server

SECONDS_TO_START = 1800.0
"""Time limit for a start: large models on slow disks take most of it."""


@contextlib.contextmanager
def running(servers: Sequence[Server], seconds: float = SECONDS_TO_START, pause: float = 0.5) -> Iterator[None]:
    """Start servers at the same time, give the context when all are ready, and end all of them when it is left.

    Args:
        servers: servers that have not been started.
        seconds: time limit until all are ready.
        pause: seconds between looks.

    Raises:
        LaunchError: if one of them ends, or is not ready in time; the others are ended, too.
    """
    try:
        for server in servers:
            server.start()
        _wait(servers, seconds, pause)
        yield
    finally:
        end_all(servers)


def _wait(servers: Sequence[Server], seconds: float, pause: float) -> None:
    deadline = time.monotonic() + seconds
    waiting = list(servers)
    while waiting := [server for server in waiting if not server.is_ready()]:
        for server in servers:
            server.check()
        if time.monotonic() > deadline:
            raise LaunchError(waiting[0].failure(f"was not ready after {seconds:.0f} s"))
        time.sleep(pause)


def why_ended(servers: Sequence[Server]) -> list[str]:
    """Return why servers that were ready have ended by themselves, with the likely cause and the end of the output."""
    reasons: list[str] = []
    for server in servers:
        noted(reasons, server.check)
    return reasons


def end_all(servers: Sequence[Server]) -> None:
    """End servers at the same time.

    Raises:
        LaunchError: if a process can't be ended; all servers have been told to end by then.
    """
    for server in servers:
        server.tell_to_end()
    with contextlib.ExitStack() as rest:  # goes on with the others if one raises
        for server in servers:
            rest.callback(server.end)
