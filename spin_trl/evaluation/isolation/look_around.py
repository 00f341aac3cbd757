"""Harmless attempts at what the layers should prevent, made inside the room: a layer holds if its attempt fails."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable
from typing import Any

from .limits import Limits


def look_around(outside: str, limits: Limits) -> dict[str, Any]:
    """Return what is possible inside.

    Args:
        outside: a file outside of the room that the user can read and write.
        limits: limits that should hold.

    Returns:
        `reads_outside`, `writes_outside`: whether that file can be read, and a file be made next to it; `writes_inside`:
        whether the work folder can be written to; `network`: names of the network interfaces; `process`: own process id;
        `user`: all ids of the own user; `forks`, `allocates`, `enlarges`: whether it can start a process, map more memory
        and make a larger file than the limits allow; `variables`: number of environment variables; `imports`: whether the
        standard library is there.
    """
    return {
        "reads_outside": _works(lambda: open(outside, "rb").close()),
        "writes_outside": _works(lambda: _touch(f"{outside}.written")),
        "writes_inside": _works(lambda: _touch("written")),
        "network": _interfaces(),
        "process": os.getpid(),
        "user": list(os.getresuid()),
        "forks": _works(_fork),
        "allocates": _works(lambda: mmap.mmap(-1, limits.memory).close()),
        "enlarges": _works(lambda: _touch("large", limits.file_size + 1)),
        "variables": len(os.environ),
        "imports": _works(_import),
    }


def _works(attempt: Callable[[], object]) -> bool:
    with contextlib.suppress(OSError, MemoryError, ImportError):
        attempt()
        return True
    return False


def _touch(path: str, size: int = 0) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _interfaces() -> list[str]:
    import socket  # here: the processes that run generated code start faster without it

    with contextlib.suppress(OSError):
        return sorted(name for _, name in socket.if_nameindex())
    return []


def _import() -> None:
    import calendar
    import sqlite3  # noqa: F401  # a compiled module

    calendar.isleap(2000)
