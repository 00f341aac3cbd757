"""A run pauses when servers have to be given other weights by hand. Every process of the run learns of it from a file, and
in the same way of answers that will not come, since one process alone asks the servers."""

from __future__ import annotations

from typing import Any, NoReturn

from ...errors import DivergedError, PausedError
from ...files import read_json, write_json
from ...generation.engine import UnansweredError
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


def tell_given_up(run: Run, error: Exception) -> None:
    """Tell the processes that wait for this one's answers that some will not come, and why."""
    write_json(run.directory.own(PAUSED), {"given_up": str(error), "diverged": isinstance(error, DivergedError)})


def check_not_paused(run: Run) -> None:
    """Raise if another process of the run has paused it.

    Raises:
        PausedError: with that process's message.
    """
    found = _paused_file(run).get("message")
    if isinstance(found, str):
        raise PausedError(found)


def check_still_answering(run: Run) -> None:
    """Raise if the process that asks the servers has given up.

    Raises:
        PausedError: if it has paused the run, with its message.
        DivergedError, UnansweredError: if the model has diverged, or servers failed, with its message.
    """
    check_not_paused(run)
    told = _paused_file(run)
    if isinstance(found := told.get("given_up"), str):
        raise DivergedError(found) if told.get("diverged") is True else UnansweredError(found, [])


def _paused_file(run: Run) -> dict[str, Any]:
    try:
        found = read_json(run.directory.stage(PAUSED))
    except (OSError, ValueError):  # it is being written
        return {}
    return found if isinstance(found, dict) else {}


def forget_pause(run: Run) -> None:
    """Remove the message of an earlier pause."""
    run.directory.stage(PAUSED).unlink(missing_ok=True)
