"""Keeps a process from writing, moving or removing anything outside a folder, by Linux's Landlock; this includes
root's.

An input is meant to find mistakes of the package, and one of these may be to remove files that aren't its own.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""Numbers of the system calls, on every architecture."""

_NO_NEW_PRIVILEGES = 38
_BENEATH = 1
_VERSION = 1

_WRITE_FILE, _REFER, _TRUNCATE = 1 << 1, 1 << 13, 1 << 14
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
"""Removing or making folders, files, devices, sockets, pipes and links."""

_SINCE = {_REFER: 2, _TRUNCATE: 3}
"""Later rights, with the version of Landlock that introduced them."""

DEVICES = ("/dev", "/proc")
"""Folders where files such as `/dev/null` may be written to, but none made or removed."""


def confine(*folders: Path) -> bool:
    """Let this process, and all its children, change files in these folders only. This can't be undone.

    Returns:
        Whether this machine supports it.
    """
    kernel = ctypes.CDLL(None, use_errno=True)
    version = kernel.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    if version < 1:
        return False
    later = sum(right for right, since in _SINCE.items() if version >= since)
    every = _WRITE_FILE | _REMOVE_AND_MAKE | later
    handled = ctypes.create_string_buffer(struct.pack("=Q", every), 8)
    rules = kernel.syscall(_CREATE, handled, ctypes.c_size_t(8), ctypes.c_uint32(0))
    if rules < 0:
        return False
    try:
        places = [(str(folder), every) for folder in folders]
        places += [(device, _WRITE_FILE | (later & _TRUNCATE)) for device in DEVICES]
        places.append(("/dev/shm", every))
        for place, rights in places:
            if not os.path.isdir(place):
                continue
            handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, handle), 12)
                if kernel.syscall(_ADD, rules, ctypes.c_uint32(_BENEATH), rule, ctypes.c_uint32(0)):
                    return False
            finally:
                os.close(handle)
        if kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
            return False
        return kernel.syscall(_RESTRICT, rules, ctypes.c_uint32(0)) == 0
    finally:
        os.close(rules)
