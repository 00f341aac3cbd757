"""The parts of a message that don't depend on its wording: an error's class, its settings, files, commands and
numbers.

A message can be reworded without breaking a test; what it names is what a user acts on.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def names(message: str, *parts: object) -> bool:
    """Return whether a message names every part: a setting, a file, a command, a value that a user gave, a number."""
    return not _missing(message, parts)


@contextmanager
def refused(
    kind: type[BaseException] | tuple[type[BaseException], ...], *parts: object
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """Fail unless the block raises an error of this class whose message names every part."""
    with pytest.raises(kind) as error:
        yield error
    missing = _missing(str(error.value), parts)
    assert not missing, f"{missing} isn't named in: {error.value}"


@contextmanager
def warned(kind: type[Warning], *parts: object) -> Iterator[None]:
    """Fail unless the block gives a warning of this class that names every part."""
    with pytest.warns(kind) as warnings:
        yield
    messages = [str(warning.message) for warning in warnings if issubclass(warning.category, kind)]
    assert any(names(message, *parts) for message in messages), f"none of them names all of {parts}: {messages}"


def logged(caplog: pytest.LogCaptureFixture, *parts: object) -> None:
    """Fail unless something was logged that names every part."""
    assert any(names(message, *parts) for message in caplog.messages), f"none names all of {parts}: {caplog.messages}"


def _missing(message: str, parts: tuple[object, ...]) -> list[str]:
    return [str(part) for part in parts if not _as_whole(str(part)).search(message)]


def _as_whole(part: str) -> re.Pattern[str]:
    # 3 isn't named by "13" or "0.3", nor `beta` by `tspin_beta`: a part ends at a word or number boundary.
    before = r"(?<!\w)(?<!\d\.)" if re.match(r"\w", part) else ""
    after = r"(?!\w)(?!\.\d)" if re.search(r"\w$", part) else ""
    return re.compile(before + re.escape(part) + after)
