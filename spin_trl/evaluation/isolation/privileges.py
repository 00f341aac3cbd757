"""The third layer: the user that code runs as, which is never root, and has no capabilities."""

from __future__ import annotations

import contextlib
import errno
import os
import signal

from . import kernel

_FIRST_FREE_ID = 0x7000_0000
"""User ids from here on belong to nobody, so processes of other rooms and services are those of other users."""

_NOBODY = 65534
_LAST_CAPABILITY = 63


def become_nobody(number: int, folder: str) -> int:
    """Change from root to a user without other files or processes, and return its id.

    Args:
        number: a number that no other room uses at the moment, such as the id of its process.
        folder: folder to give to that user.

    Raises:
        OSError: if the user can't be changed, as in a container that maps no other ids.
    """
    os.setgroups([])
    for user in (_FIRST_FREE_ID + number, _NOBODY):
        with contextlib.suppress(OSError):
            os.chown(folder, user, user)
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            return user
    raise OSError("neither an unused user id nor that of nobody is mapped here")


def give_up_capabilities() -> None:
    """Drop all capabilities for good, and forbid programs that would give new ones."""
    for capability in range(_LAST_CAPABILITY + 1):
        with contextlib.suppress(OSError):  # not known to this kernel, or not allowed, since it has none
            kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
    header = (0x20080522).to_bytes(4, "little") + bytes(4)
    kernel.system_call(kernel.by_processor(kernel.CAPSET, "capset"), header, bytes(24), what="capset")
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)


def leave_keyring() -> None:
    """Leave the keyring of the session, whose keys any of its processes may read, for an empty one."""
    join_session_keyring = 1
    number = kernel.by_processor(kernel.KEYCTL, "keyctl")
    try:
        kernel.system_call(number, join_session_keyring, None, what="keyctl")
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):  # without these calls, the code can't read keys either
            raise


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends. A change of user ends this."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def forbid_tracing() -> None:
    """Keep other processes of the same user from reading and changing this one's memory."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
