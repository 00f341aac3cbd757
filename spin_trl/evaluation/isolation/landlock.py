"""The second layer: Landlock, by which a process gives up access to files, the network and other processes for good.

See https://docs.kernel.org/userspace-api/landlock.html. It needs no privilege, and exists since Linux 5.13.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

from . import kernel

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_ALL_OF_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights on files, by the version that knows them first. Version 5 adds control of devices."""
_ALL_OF_TCP = {4: 0b11}
"""Rights to bind and to connect TCP ports."""
_SCOPES = {6: 0b11}
"""Abstract Unix sockets of, and signals to, processes outside."""

_ON_FOLDERS_ONLY = _READ_DIR | 0b1_1111_1111_0000 | 1 << 13
"""Rights that a rule can't name for a file: to list, to remove, to make, and to move between folders."""

COVERS_TCP, COVERS_SIGNALS = 4, 6
"""Versions from which on it covers the network, and signals to other processes."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def version() -> int:
    """Return the version of Landlock that the kernel has.

    Raises:
        OSError: if it has none, or it is switched off.
    """
    return kernel.system_call(kernel.LANDLOCK_CREATE_RULESET, None, 0, 1, what="Landlock")


def restrict(readable: list[str], writable: list[str]) -> int:
    """Give up everything that Landlock covers, except reading some paths and writing to some folders.

    Nothing can be executed, not even from the readable paths.

    Args:
        readable: paths that may be read, with all that lies below; missing ones are skipped.
        writable: folders to which files may be written.

    Returns:
        The version of Landlock.

    Raises:
        OSError: if the kernel refuses it.
    """
    known = version()
    files = _newest(_ALL_OF_FILES, known)
    asked = _Ruleset(files, _newest(_ALL_OF_TCP, known), _newest(_SCOPES, known))
    # Older kernels refuse fields that they don't know.
    size = 24 if known >= COVERS_SIGNALS else 16 if known >= COVERS_TCP else 8
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)  # the kernel asks for this from anyone but root
    given = ctypes.create_string_buffer(bytes(asked)[:size], size)
    ruleset = kernel.system_call(kernel.LANDLOCK_CREATE_RULESET, given, size, 0, what="landlock_create_ruleset")
    try:
        for path in readable:
            with contextlib.suppress(FileNotFoundError):
                _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in writable:
            _allow(ruleset, path, files & ~1)  # all but executing
        kernel.system_call(kernel.LANDLOCK_RESTRICT_SELF, ruleset, 0, what="landlock_restrict_self")
    finally:
        os.close(ruleset)
    return known


def _newest(rights: dict[int, int], known: int) -> int:
    return max((value for since, value in rights.items() if since <= known), default=0)


def _allow(ruleset: int, path: str, allowed: int) -> None:
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            allowed &= ~_ON_FOLDERS_ONLY
        rule = ctypes.create_string_buffer(bytes(_PathRule(allowed, folder)), ctypes.sizeof(_PathRule))
        kernel.system_call(kernel.LANDLOCK_ADD_RULE, ruleset, 1, rule, 0, what=f"landlock_add_rule for {path}")
    finally:
        os.close(folder)
