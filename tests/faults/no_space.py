"""A disk that is full for one process: from some moment on, its writes fail with ENOSPC, whichever library makes them.

The kernel refuses them (seccomp, which needs no privileges), so safetensors, Arrow and torch see what a full disk
gives them. Output to stdout and stderr is still written.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from typing import Final

# By machine: its number in the kernel; calls that write as many bytes as their third argument says; other calls that write.
_CALLS: Final[dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]]] = {
    "x86_64": (0xC000003E, (1, 18), (20, 40, 296, 326, 328)),  # write, pwrite64; writev, sendfile, pwritev, ...
    "aarch64": (0xC00000B7, (64, 68), (66, 71, 70, 285, 287)),
}

_LOAD, _EQUALS, _GREATER, _AT_LEAST, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _MACHINE, _FIRST, _THIRD = 0, 4, 16, 32  # where a filter finds these values
_PR_SET_NO_NEW_PRIVS, _SET_FILTER, _ALL_THREADS = 38, 1, 1
_SECCOMP = {"x86_64": 317, "aarch64": 277}


def is_possible() -> bool:
    """Return whether this machine's kernel is supported."""
    return platform.system() == "Linux" and platform.machine() in _CALLS


def fill(smallest: int = 1) -> None:
    """Make all writes of this process fail from now on, in all its threads.

    Args:
        smallest: smallest write, in bytes, that fails; smaller ones still fit.

    Raises:
        OSError: if the kernel does not let a process do that.
    """
    machine, sized, others = _CALLS[platform.machine()]
    # One row per instruction: code, instructions to skip if true, instructions to skip if false, value. The last four
    # are shared.
    calls = [*sized, *others]
    lines: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUALS, 1, 0, machine),
        (_RETURN, 0, 0, _ALLOW),
    ]
    lines.append((_LOAD, 0, 0, _NUMBER))
    ends = len(lines) + len(calls) + 1
    first_of_sized, first_of_others, fails = ends, ends + 4, ends + 7
    for call in calls:
        target = first_of_sized if call in sized else first_of_others
        lines.append((_EQUALS, target - len(lines) - 1, 0, call))
    lines += [
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _THIRD),
        (_AT_LEAST, 1, 0, smallest),
        (_RETURN, 0, 0, _ALLOW),
        (_EQUALS, 0, 0, 0),  # continue with the next instruction
        (_LOAD, 0, 0, _FIRST),
        (_GREATER, 1, 0, 2),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSPC),
    ]
    assert len(lines) == fails + 1
    program = b"".join(struct.pack("HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(program)
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.syscall(_SECCOMP[platform.machine()], _SET_FILTER, _ALL_THREADS, filters) != 0:
        raise OSError(ctypes.get_errno(), "the kernel takes no filter")
