"""What can go wrong, as exceptions that say which file, row or setting is at fault and what to do about it.

Every class is also the standard-library error that it replaces, so `except ValueError` keeps working. The command line
prints the message without a traceback and exits with `exit_code`: 2 for input that has to change, 1 for a failure.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import TypeVar

Made = TypeVar("Made")


class SpinError(Exception):
    """Base class of every error that this package raises on purpose."""

    exit_code = 1


class InputError(SpinError, ValueError):
    """Base class of the errors that something in the user's input has to change for."""

    exit_code = 2


class RecipeError(InputError):
    """A setting is unknown, has the wrong type or contradicts another one."""


class DataError(InputError):
    """A dataset can't be read, or one of its rows can't be trained on."""


class TemplateError(DataError):
    """A chat template can't render a response the way a generation would continue the prompt."""


class GenerationsError(InputError):
    """Stored generations are missing, damaged, or belong to another dataset, model or template."""


class RunDirectoryError(InputError):
    """The run directory belongs to another recipe, dataset or version, or is in use."""


class OpponentError(SpinError, RuntimeError):
    """The policy does not start an iteration at its opponent, so every log-ratio of the iteration would be wrong."""


class DivergedError(SpinError, RuntimeError):
    """A model's logits are NaN, or a loss or a gradient of its training: it has diverged.

    Args:
        message: what was found, and what to do.
        step: of training, at which it was found (from 1); None if it was found elsewhere.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class LaunchError(SpinError, RuntimeError):
    """A phase that runs as a process of its own failed, or can't run under this launcher."""


class BenchmarkError(SpinError, RuntimeError):
    """A benchmark of lm-evaluation-harness can't be loaded, or failed."""


class HubError(SpinError, RuntimeError):
    """Something could not be pushed to the Hugging Face Hub, or fetched from it."""


class PlanError(InputError):
    """A run can't be planned: its model's configuration is not at hand, a GPU is not known, or a model can't be followed."""


class DoesNotFitError(SpinError, RuntimeError):
    """A run needs more memory than the GPU that it was planned for has, or a format that this GPU does not know."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """The end of a message on a name that is unknown: `; did you mean 'win_rate'?`, or a full stop if none is near.

    Args:
        name: that is unknown.
        known: names that there are.
        cutoff: how alike two names must be, from 0 to 1.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else "."


def noted(reasons: list[str], make: Callable[[], Made]) -> Made | None:
    """What `make` returns; or None, and why it refuses is added to the reasons, to be said together with others."""
    try:
        return make()
    except SpinError as error:
        reasons.append(str(error))
        return None


def refuse_unplayable(reasons: Iterable[str], kind: type[SpinError] = RecipeError) -> None:
    """Raise if there are reasons, with all of them.

    Args:
        reasons: each a sentence or two.
        kind: of the error.
    """
    found = list(dict.fromkeys(reasons))
    if len(found) == 1:
        raise kind(found[0])
    if found:
        raise kind(f"{len(found)} settings can't be played:\n" + "\n".join(f"- {reason}" for reason in found))
