"""Entry point of the `spin-trl` command: handles interrupts before it imports what takes seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..play.parent import end_with_parent
from .interrupts import INTERRUPTED, INTERRUPTED_MESSAGE, interruptible


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: command-line arguments without the program's name; None: those of this process.

    Returns:
        The exit code.
    """
    with interruptible():
        try:
            _open_streams()
            end_with_parent()
            from .command_line import run_command_line

            return run_command_line(arguments)
        except KeyboardInterrupt:
            print(f"spin-trl: {INTERRUPTED_MESSAGE}", file=sys.stderr)
            return INTERRUPTED


def _open_streams() -> None:
    """Open stdin, stdout and stderr on the null device if this process was started without them, as daemons do.

    Otherwise the next file to be opened would get their descriptor, and what libraries print would end up in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor: this one
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
