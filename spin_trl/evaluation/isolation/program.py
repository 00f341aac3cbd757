"""Run generated code, and what a test asks of it, in the process that is behind the layers.

Everything that this process sends may come from the generated code, which can reach all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import Any

from .plain_values import NotPlainError, encode

RUN, VALUE, CHECK = "run", "value", "check"
"""Kinds of steps: a statement to run; an expression whose value is sent; an assertion that is checked here."""

ENDED, FAILED = "ended", "failed"

Send = Callable[[Mapping[str, Any]], None]


def play(before: str, code: str, steps: Iterable[tuple[str, str]], send: Send) -> None:
    """Run code, then the steps, in one name space, and send what became of each as soon as it is known.

    Args:
        before: source to run first, such as imports.
        code: source of the generated code.
        steps: pairs of a kind and a source.
        send: called with `{"step": number, ...}`: `value`, an encoded value; or `holds`, whether an assertion holds; or
            `failed`, the class of the error. Step -1 is the code; nothing follows if it fails.
    """
    names: dict[str, Any] = {"__name__": "generated", "__builtins__": __builtins__}
    sources = [(-1, RUN, f"{before}\n"), (-1, RUN, code), *((number, *step) for number, step in enumerate(steps))]
    for number, kind, source in sources:
        try:
            compiled = compile(source, "<generated>", "eval" if kind == VALUE else "exec", dont_inherit=True)
            found = _result(kind, compiled, names)
        except BaseException as error:  # the code may raise anything, SystemExit among it
            found = {FAILED: type(error).__name__}
        if number >= 0 or FAILED in found:
            send({"step": number, **found})
        if number < 0 and FAILED in found:
            return


def _result(kind: str, compiled: CodeType, names: dict[str, Any]) -> dict[str, Any]:
    if kind == VALUE:
        try:
            return {"value": encode(eval(compiled, names))}  # what this process is for
        except NotPlainError as error:
            return {FAILED: f"NotPlainError: {error}"}
    exec(compiled, names)  # the same
    return {"holds": True} if kind == CHECK else {}
