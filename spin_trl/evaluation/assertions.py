"""Read a row's assertions: what a process behind isolation has to compute, and what it must not know.

Of `assert CALL == LITERAL`, generated code only gets to see `CALL`. Its value is compared with the literal here, where that
code never ran.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .isolation.plain_values import NotPlainError, decode
from .isolation.program import StepKind

_UNKNOWN = object()


@dataclass(frozen=True)
class Statement:
    """A statement of a row's tests.

    Attributes:
        kind: `VALUE` for an assertion that is compared here, `CHECK` for one that is checked where the code runs, `RUN` for
            another statement.
        source: source that the generated code's process gets: for an assertion that is compared here, the expression alone.
        expected: value that the expression should have.
        is_shown: whether the prompt contains the assertion.
    """

    kind: StepKind
    source: str
    expected: Any = None
    is_shown: bool = False

    @property
    def is_assertion(self) -> bool:
        """Whether it is an assertion."""
        return self.kind != StepKind.RUN

    def holds(self, sent: Mapping[str, Any]) -> bool:
        """Return whether the assertion holds, from what a process sent about it, which may be of any form."""
        if self.kind == StepKind.CHECK:
            return sent.get("holds") is True
        if "value" not in sent:
            return False
        try:
            return bool(decode(sent["value"]) == self.expected)
        except NotPlainError:
            return False
        except (
            ArithmeticError,
            RecursionError,
            TypeError,
        ):  # a signalling NaN, or values nested too deeply to compare
            return False


def read_steps(texts: Iterable[str], prompt: str) -> list[Statement]:
    """Return the statements of a row's tests, in order.

    Args:
        texts: Python source of the tests, usually one assertion each.
        prompt: prompt of the row, which may show some of them.

    Raises:
        SyntaxError: if a test can't be parsed.
    """
    shown = _squeezed(prompt)
    found = []
    for text in texts:
        source = _with_line_feeds(text).strip()
        found += [_step(statement, source, shown) for statement in ast.parse(source).body]
    return found


def _step(statement: ast.stmt, whole: str, shown: str) -> Statement:
    source = ast.unparse(statement)
    if not isinstance(statement, ast.Assert):
        return Statement(StepKind.RUN, source)
    test = statement.test
    is_shown = _squeezed(f"assert {ast.get_source_segment(whole, test)}") in shown
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        for expression, other in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
            expected = _literal(other)
            if expected is not _UNKNOWN and any(isinstance(node, ast.Call) for node in ast.walk(expression)):
                return Statement(StepKind.VALUE, ast.unparse(expression), expected, is_shown)
    return Statement(StepKind.CHECK, source, is_shown=is_shown)


def _literal(node: ast.expr) -> Any:
    """Return the value of a literal, or `_UNKNOWN`."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _UNKNOWN


def _squeezed(text: str) -> str:
    """Return Python source such that its layout, kind of quotes and outer brackets don't matter for finding it."""
    return "".join(text.split()).replace('"', "'").replace("(", "").replace(")", "")


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
