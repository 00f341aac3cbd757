"""Where the `spin-trl` command begins: it can be interrupted before it imports what takes seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..play.parent import end_with_parent
from .interrupts import INTERRUPTED, INTERRUPTED_MESSAGE, interruptible


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None for those of this process.

    Returns:
        The exit code.
    """
    _open_streams()
    with interruptible():
        try:
            end_with_parent()
            from .command_line import run_command_line

            return run_command_line(arguments)
        except KeyboardInterrupt:
            print(f"spin-trl: {INTERRUPTED_MESSAGE}", file=sys.stderr)
            return INTERRUPTED


def _open_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr one that leads nowhere, as a daemon does.

    The next file that is opened would take its number, and what libraries print would go into that.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
