"""A run pauses when servers have to be given other weights by hand. Every process of the run learns of it from a file."""

from __future__ import annotations

from typing import NoReturn

from ...errors import PausedError
from ...files import read_json, write_json
from ...run.contents import PAUSED
from ...run.run import Run


def pause(run: Run, message: str) -> NoReturn:
    """End the phase, and the run with it.

    Args:
        run: the run.
        message: what to do before the run can go on.

    Raises:
        PausedError: always, with the message.
    """
    write_json(run.directory.own(PAUSED), {"message": message})
    raise PausedError(message)


def check_not_paused(run: Run) -> None:
    """Raise if another process of the run has paused it.

    Raises:
        PausedError: with that process's message.
    """
    try:
        found = read_json(run.directory.stage(PAUSED))
    except (OSError, ValueError):  # it is being written
        return
    if isinstance(found, dict) and isinstance(found.get("message"), str):
        raise PausedError(found["message"])


def forget_pause(run: Run) -> None:
    """Remove the message of an earlier pause."""
    run.directory.stage(PAUSED).unlink(missing_ok=True)
