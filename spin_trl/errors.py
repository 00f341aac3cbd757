"""Exceptions whose messages name the file, row or setting at fault and what to do about it.

Every class is also a subclass of the standard-library error that it replaces, so `except ValueError` keeps working. The
command line prints the message without a traceback and exits with `exit_code`: 2 if the input must change, 1 for a failure.

Messages quote text from users, files and models, so the function that makes such text safe to display is here, too.
"""

from __future__ import annotations

import difflib
import errno
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Made = TypeVar("Made")

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 without tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, overrides and isolates of text direction
    "\u180e\u200b-\u200d\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"  # zero width, or line ends
    "\U000e0000-\U000e007f"  # tags
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"  # not characters at all
)
_JOINERS = "\u200c\u200d"
_VIRAMA = 9
"""Combining class of the mark after which a joiner is meaningful even at the end of a word."""

_CONTROL_PICTURES = 0x2400
_DELETE = 0x7F


def visible(text: str) -> str:
    """Replace characters that are invisible, or can't be written to a file, by visible names.

    `\\x00` becomes `␀`; a right-to-left override, a zero-width space and one half of a surrogate pair become `⟨U+202E⟩`,
    `⟨U+200B⟩` and `⟨U+D83D⟩`. Joiners between letters or emoji are kept, since they are part of the writing.

    This is only for text that is displayed. Data that is stored or pushed is not changed.
    """
    return _UNSEEN.sub(_name_of_character, text.replace("\r\n", "\n"))


def _name_of_character(found: re.Match[str]) -> str:
    if found[0] in _JOINERS and _joins(found):
        return found[0]
    code = ord(found[0])
    if code < ord(" "):
        return chr(_CONTROL_PICTURES + code)
    return "␡" if code == _DELETE else f"⟨U+{code:04X}⟩"


def _joins(found: re.Match[str]) -> bool:
    """Return whether a joiner is meaningful where it is: between letters or emoji, or after a virama."""
    start, end = found.span()
    before, after = found.string[max(start - 1, 0) : start], found.string[end : end + 1]
    behind_virama = before != "" and unicodedata.combining(before) == _VIRAMA
    return behind_virama or (_is_joined(before) and _is_joined(after))


def _is_joined(character: str) -> bool:
    """Return whether a character is a letter, a combining mark, or a symbol such as an emoji."""
    kind = unicodedata.category(character)[0] if character else ""
    return kind in ("L", "M") or (kind == "S" and not character.isascii())


class SpinError(Exception):
    """Base class of all errors that this package raises deliberately."""

    exit_code = 1

    def __str__(self) -> str:
        return visible(super().__str__())


class InputError(SpinError, ValueError):
    """Base class of errors that the user has to fix by changing the input."""

    exit_code = 2


class RecipeError(InputError):
    """A setting is unknown, has the wrong type, or contradicts another one."""


class IsolationError(RecipeError):
    """Generated code was not run, since a layer of isolation can't be had on this machine.

    Args:
        layer: name of the layer; empty if the code's process could not be started at all.
        reason: why it can't be had.
    """

    def __init__(self, layer: str, reason: str) -> None:
        what = f"the isolation layer {layer!r} can't be had" if layer else "its process could not be started"
        super().__init__(f"Generated code was not run: {what}: {reason}")
        self.layer, self.reason = layer, reason


class DataError(InputError):
    """A dataset can't be read, or one of its rows can't be trained on."""


class BrokenWeightsError(DataError):
    """The weights that training starts from hold NaN or infinity.

    Args:
        message: message that describes the problem and what to do.
        where: names of the parameters that do.
    """

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.where = where


class TemplateError(DataError):
    """A chat template can't render a response the way a generation would continue the prompt."""


class GenerationsError(InputError):
    """Stored generations are missing, damaged, or belong to another dataset, model or template."""


class RunDirectoryError(InputError):
    """The run directory belongs to another recipe, dataset or version, or is in use."""


class OpponentError(SpinError, RuntimeError):
    """The policy does not start an iteration at its opponent, so every log-ratio of the iteration would be wrong."""


class DivergedError(SpinError, RuntimeError):
    """A model's logits are NaN, or a loss or gradient in training is not finite: the model has diverged.

    Args:
        message: message that describes the problem and what to do.
        step: training step at which it was found (from 1); None outside of training.
        rows: pairs of that step that cause it, as far as known: key, iteration and sample of each.
    """

    def __init__(self, message: str, step: int | None = None, rows: Iterable[Sequence[object]] = ()) -> None:
        super().__init__(message)
        self.step, self.rows = step, [list(row) for row in rows]


class LaunchError(SpinError, RuntimeError):
    """A phase that runs in a separate process failed, or can't run under this launcher."""


class PausedError(SpinError, RuntimeError):
    """A run has to wait for the user: for other weights on servers, or for votes. A run ends with exit code 0 then, a phase
    with 1."""


class VotesError(InputError):
    """A reviewer's votes can't be read, or don't belong to the run's review page."""


class BenchmarkError(SpinError, RuntimeError):
    """A benchmark of lm-evaluation-harness can't be loaded, or failed."""


class HubError(SpinError, RuntimeError):
    """Pushing to the Hugging Face Hub, or fetching from it, failed."""


class FetchError(SpinError, RuntimeError):
    """A pretrained model can't be fetched from the package index, or is not the one that was expected."""


class PlanError(InputError):
    """A run can't be planned: the model's configuration is missing, the GPU is unknown, or the model can't be analysed."""


class DoesNotFitError(SpinError, RuntimeError):
    """A run needs more memory than the planned GPU has, or a number format that this GPU does not support."""


_FULL_DISK = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "PytorchStreamWriter",
    "unexpected pos",
    "iostream error",
)
"""Messages on a full disk of libraries that raise no OSError: safetensors, tokenizers (a bare `Exception`), `torch.save`."""


FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of an `OSError` for missing write permission or a read-only file system."""


def full_disk(error: BaseException) -> BaseException | None:
    """Return the error, or its cause, that reports a full disk, an exceeded quota or a file that is too large; else None."""
    for one in _with_causes(error):
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return one
        # Errors of this package quote text from users, which may be anything.
        if not isinstance(one, SpinError) and any(words in message_of(one) for words in _FULL_DISK):
            return one
    return None


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and its causes."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return iter(found)


def message_of(error: BaseException) -> str:
    """Return an error's message, even if `__str__` of an error from user code fails."""
    try:
        return str(error)
    except Exception:  # its `__str__` may raise anything
        return "(its message can't be read)"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5, *, prefix: str = "") -> str:
    """Return the end of a message about an unknown name: `; did you mean 'win_rate'?`, or a full stop if none is similar.

    Args:
        name: unknown name.
        known: known names.
        cutoff: minimum similarity of two names, from 0 to 1.
        prefix: text that the user writes before each of these names, such as `--`; it doesn't make two names similar.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {prefix + near[0]!r}?" if near else "."


def noted(reasons: list[str], make: Callable[[], Made]) -> Made | None:
    """Return the result of `make`; if it raises a `SpinError`, add its message to `reasons` and return None."""
    try:
        return make()
    except SpinError as error:
        reasons.append(str(error))
        return None


def refuse_unplayable(reasons: Iterable[str], kind: type[SpinError] = RecipeError) -> None:
    """Raise one error with all reasons, if there are any.

    Args:
        reasons: reasons, each a sentence or two.
        kind: class of the error.
    """
    found = list(dict.fromkeys(reasons))
    if len(found) == 1:
        raise kind(found[0])
    if found:
        raise kind(f"{len(found)} settings can't be played:\n" + "\n".join(f"- {reason}" for reason in found))
