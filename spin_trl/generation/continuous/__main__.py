"""Run a worker of continuous batching with `python -m`. It ends when its input does, or the process that started it."""

from __future__ import annotations

import os
import sys
import threading
import time


def end_with(parent: int) -> None:
    """End this process when the one that started it has ended, even if another process holds its input open."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def run_worker() -> None:
    """Work on stdin and stdout."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    # Now, since these imports take seconds.
    from transformers.utils import logging

    from .worker import work

    logging.set_verbosity_error()  # warnings about single requests
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is not a response
    work(sys.stdin.buffer, sink)


if __name__ == "__main__":
    run_worker()
