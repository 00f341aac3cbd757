"""Ends a command in the same way on Ctrl-C, a scheduler's SIGTERM and a closed terminal (SIGHUP): finished work is kept.

Imported before all slow imports, so this module must not import anything slow.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130
"""Exit code of a command that was interrupted."""

INTERRUPTED_MESSAGE = "Interrupted. Finished work is kept; run the same command to resume."

SECONDS_TO_INTERRUPT_AGAIN = 0.01
"""Delay before the signal is sent again if Python ignored the exception."""

_IMPORTS = "<frozen importlib._bootstrap>"
"""File name in the frames of Python's import machinery."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the context, let these signals raise `KeyboardInterrupt`.

    SIGHUP and SIGINT stay ignored if this process was started that way: under `nohup`, or in the background of a shell.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {one: signal.getsignal(one) for one in signals}
    report = sys.unraisablehook

    def again(ignored: sys.UnraisableHookArgs) -> None:
        """Interrupt once more: Python ignores an exception in a finaliser or a weak reference's callback."""
        if isinstance(ignored.exc_value, KeyboardInterrupt):
            later = threading.Timer(SECONDS_TO_INTERRUPT_AGAIN, os.kill, (os.getpid(), signal.SIGTERM))
            later.daemon = True
            later.start()
        else:
            report(ignored)

    sys.unraisablehook = again
    for one in signals:
        if before[one] is not signal.SIG_IGN or one == signal.SIGTERM:
            signal.signal(one, _interrupt)
    try:
        yield
    finally:
        sys.unraisablehook = report
        for one in signals:
            signal.signal(one, before[one] or signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTS:
            # Libraries convert an exception raised during their imports into another one, or continue without the module.
            # A command may be killed at any time without harm, so the process exits here.
            os.write(2, f"spin-trl: {INTERRUPTED_MESSAGE}\n".encode())
            with contextlib.suppress(Exception):  # a stream that is gone, or in the middle of being written to
                sys.stdout.flush()
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
