"""Run generated code, and what a test asks of it, in the process that is behind the layers.

Everything that this process sends may come from the generated code, which can reach all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import CodeType
from typing import Any

from .plain_values import NotPlainError, encode


class StepKind(StrEnum):
    """What is done with a step of a program, here where the generated code runs."""

    RUN = "run"
    """It is a statement, which is executed."""
    VALUE = "value"
    """It is an expression, whose value is sent."""
    CHECK = "check"
    """It is an assertion, which is checked here."""


FAILED = "failed"
"""Key of a line about a step that raised an error: the error's class."""

Send = Callable[[Mapping[str, Any]], None]


def run_program(before: str, code: str, steps: Iterable[tuple[str, str]], send: Send) -> None:
    """Run code, then the steps, in one name space, and send what became of each as soon as it is known.

    Args:
        before: source to run first, such as imports.
        code: source of the generated code.
        steps: pairs of a kind and a source.
        send: called with `{"step": number, ...}`: `value`, an encoded value; or `holds`, whether an assertion holds; or
            `failed`, the class of the error. Step -1 is the code; nothing follows if it fails.
    """
    names: dict[str, Any] = {"__name__": "generated", "__builtins__": __builtins__}
    first = [(-1, StepKind.RUN, before), (-1, StepKind.RUN, code)]
    for number, kind, source in [*first, *((number, *step) for number, step in enumerate(steps))]:
        try:
            compiled = compile(source, "<generated>", "eval" if kind == StepKind.VALUE else "exec", dont_inherit=True)
            found = _outcome(kind, compiled, names)
        except BaseException as error:  # the code may raise anything, SystemExit among it
            found = {FAILED: type(error).__name__}
        if number >= 0 or FAILED in found:
            send({"step": number, **found})
        if number < 0 and FAILED in found:
            return


def _outcome(kind: str, compiled: CodeType, names: dict[str, Any]) -> dict[str, Any]:
    if kind == StepKind.VALUE:
        try:
            return {"value": encode(eval(compiled, names))}  # what this process is for
        except NotPlainError as error:
            return {FAILED: f"NotPlainError: {error}"}
    exec(compiled, names)  # the same
    return {"holds": True} if kind == StepKind.CHECK else {}
