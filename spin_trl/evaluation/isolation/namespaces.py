"""The first layer: namespaces in which a process sees no other process, no network and only the files that it is shown."""

from __future__ import annotations

import os
import stat

from . import kernel

WORK_FOLDER = "/generated-code"
"""The one folder inside that can be written to. It is in memory, and hides no folder that Python may be in."""

_OTHERS = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_MOST_FILES = 1000


def enter(*, is_root: bool) -> None:
    """Move this process to new namespaces. Its next child is the first process of the new PID namespace.

    Root needs no user namespace for this; anyone else becomes the owner of one, under the same user id.

    Raises:
        OSError: if the kernel or its security modules refuse it.
    """
    if is_root:
        kernel.unshare(_OTHERS)
        return
    user, group = os.getuid(), os.getgid()
    kernel.unshare(kernel.CLONE_NEWUSER | _OTHERS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def change_root(folder: str, readable: list[str], most_bytes: int) -> None:
    """Make a new root with nothing but some paths, read-only, and an empty folder in memory; leave the old root.

    Args:
        folder: existing folder to mount the new root on. Outside, it stays as it is.
        readable: absolute paths to show, links among them.
        most_bytes: size of that folder.

    Raises:
        OSError: if a mount is refused.
    """
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("root", folder, "tmpfs", flags, "size=1m,mode=755")
    for path in sorted(readable):
        _show(path, folder)
    work = folder + WORK_FOLDER
    os.makedirs(work, exist_ok=True)
    kernel.mount("work", work, "tmpfs", flags, f"size={most_bytes},nr_inodes={_MOST_FILES},mode=1777")
    os.chdir(folder)
    number = kernel.by_processor(kernel.PIVOT_ROOT, "pivot_root")
    kernel.system_call(number, b".", b".", what="pivot_root")  # the old root is now mounted over the new one
    kernel.checked(kernel.library().umount2(b".", kernel.MNT_DETACH), "umount of the old root")
    os.chdir("/")
    kernel.make_read_only("/", recursive=False)
    os.chdir(WORK_FOLDER)


def _show(path: str, folder: str) -> None:
    """Show a path under the new root: a link as a link, anything else through a read-only mount."""
    place, status = folder + path, os.lstat(path)
    if os.path.lexists(place):  # a folder above it is already shown
        return
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.path.realpath(path), place)  # not to another link, which may not be shown
        return
    if stat.S_ISDIR(status.st_mode):
        os.mkdir(place)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
    kernel.mount(path, place, None, kernel.MS_BIND | kernel.MS_REC)
    kernel.make_read_only(place, recursive=True)
