"""Where the `spin-trl` command begins: it can be interrupted before it imports what takes seconds."""

from __future__ import annotations

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
    with interruptible():
        try:
            end_with_parent()
            from .command_line import run_command_line

            return run_command_line(arguments)
        except KeyboardInterrupt:
            print(f"spin-trl: {INTERRUPTED_MESSAGE}", file=sys.stderr)
            return INTERRUPTED
