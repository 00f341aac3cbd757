"""What can go wrong, as exceptions that say which file, row or setting is at fault and what to do about it.

Every class is also the standard-library error that it replaces, so `except ValueError` keeps working. The command line
prints the message without a traceback and exits with `exit_code`: 2 for input that has to change, 1 for a failure.

A message quotes what users, files and models have written. So the function that makes such text fit to be shown is here too.
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
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, overrides and isolates of the direction of text
    "\u180e\u200b-\u200d\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"  # no width, or the end of a line
    "\U000e0000-\U000e007f"  # tags
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"  # no characters at all
)
_JOINERS = "\u200c\u200d"
_VIRAMA = 9
"""Combining class of the mark behind which a joiner has a meaning also at the end of a word."""

_CONTROL_PICTURES = 0x2400
_DELETE = 0x7F


def visible(text: str) -> str:
    """A text in which characters that can't be seen, or can't be written to a file, stand as names of themselves.

    `\\x00` becomes `␀`; a right-to-left override, a zero-width space and one half of a surrogate pair become `⟨U+202E⟩`,
    `⟨U+200B⟩` and `⟨U+D83D⟩`. Joiners between letters or emoji stay, since they are part of how these are written.

    This is for what is shown. What is stored or pushed as data stays as it is.
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
    """Whether a joiner stands where it has a meaning: between letters or emoji, or behind a virama."""
    start, end = found.span()
    before, after = found.string[max(start - 1, 0) : start], found.string[end : end + 1]
    behind_virama = before != "" and unicodedata.combining(before) == _VIRAMA
    return behind_virama or (_is_joined(before) and _is_joined(after))


def _is_joined(character: str) -> bool:
    """Whether it is a letter, a mark on one, or a symbol such as an emoji."""
    kind = unicodedata.category(character)[0] if character else ""
    return kind in ("L", "M") or (kind == "S" and not character.isascii())


class SpinError(Exception):
    """Base class of every error that this package raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        return visible(super().__str__())


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
        rows: of that step by which the loss is none, as far as they are known: key, iteration and sample of each pair.
    """

    def __init__(self, message: str, step: int | None = None, rows: Iterable[Sequence[object]] = ()) -> None:
        super().__init__(message)
        self.step, self.rows = step, [list(row) for row in rows]


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


_FULL_DISK = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "PytorchStreamWriter",
    "unexpected pos",
    "iostream error",
)
"""What libraries say on a full disk that raise no OSError: safetensors, tokenizers (a bare `Exception`) and `torch.save`."""


FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Numbers of an `OSError` where this user may not write, or nobody may."""


def full_disk(error: BaseException) -> BaseException | None:
    """What has found that the disk, a quota or a file is full: an error, or one of those that it came from; else None."""
    for one in _with_causes(error):
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return one
        # Errors of this package quote what users have written, which may be anything.
        if not isinstance(one, SpinError) and any(words in message_of(one) for words in _FULL_DISK):
            return one
    return None


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it came from."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return iter(found)


def message_of(error: BaseException) -> str:
    """What an error says. That of a user's own code may be unable to."""
    try:
        return str(error)
    except Exception:  # whatever its `__str__` raises
        return "(its message can't be read)"


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
