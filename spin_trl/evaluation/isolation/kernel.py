"""System calls that Python 3.11 has no functions for, through the C library. Linux only."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
"""Kinds of namespaces (`linux/sched.h`)."""

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
"""Flags of `mount` (`linux/mount.h`)."""

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
"""Options of `prctl` (`linux/prctl.h`)."""

MNT_DETACH = 2

MOUNT_SETATTR, LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 442, 444, 445, 446
"""Numbers of system calls, which are the same on all processors since number 424."""

PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203}
CAPSET = {"x86_64": 126, "aarch64": 91, "riscv64": 91, "ppc64le": 184}
KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271}
"""Numbers of older system calls, by processor."""


def library() -> ctypes.CDLL:
    """Return the C library that this interpreter is linked with."""
    return ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """Return the result of a call.

    Raises:
        OSError: if the call failed.
    """
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def system_call(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None, what: str) -> int:
    """Call the kernel; integers are passed as 64 bits.

    Raises:
        OSError: if the call fails.
    """
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return checked(library().syscall(ctypes.c_long(number), *passed), what)


def by_processor(numbers: dict[str, int], what: str) -> int:
    """Return the number of a system call on this processor.

    Raises:
        OSError: if it is not known.
    """
    machine = os.uname().machine
    if machine not in numbers:
        raise OSError(f"{what}: its number is not known for the processor {machine}")
    return numbers[machine]


def unshare(kinds: int) -> None:
    """Move this process to new namespaces; of a PID namespace, its children are the first."""
    checked(library().unshare(kinds), "unshare")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Mount a file system, or change a mount, as in `mount(2)`."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    source_, target_, kind_, options_ = texts
    checked(library().mount(source_, target_, kind_, ctypes.c_ulong(flags), options_), f"mount on {target}")


def make_read_only(path: str, *, recursive: bool) -> None:
    """Make a mount read-only, without set-uid programs and devices, together with all mounts below it if asked to."""
    read_only, nosuid, nodev, at_fdcwd, at_recursive = 0x1, 0x2, 0x4, -100, 0x8000
    attributes = b"".join(number.to_bytes(8, "little") for number in (read_only | nosuid | nodev, 0, 0, 0))
    flags = at_recursive if recursive else 0
    given = (os.fsencode(path), flags, attributes, len(attributes))
    system_call(MOUNT_SETATTR, at_fdcwd, *given, what=f"mount_setattr of {path}")


def prctl(option: int, *arguments: int) -> None:
    """Change a property of this process, as in `prctl(2)`."""
    padded = [ctypes.c_ulong(one) for one in (*arguments, 0, 0, 0, 0)[:4]]
    checked(library().prctl(option, *padded), f"prctl {option}")
