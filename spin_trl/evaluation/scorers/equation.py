"""Compare the values of arithmetic expressions, for tasks whose answer is an equation."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from ..scoring import Score, compared

LONGEST_EXPRESSION = 1000
"""Maximum number of characters of an expression; longer ones could take long to compute."""

MOST_LINES = 100
"""Number of lines that are looked at, from the last: a model that never stops may write many."""

_PLAIN_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")  # no exponents: 1e999999999 would fill the memory
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SIGNS = str.maketrans("×·÷−–[]{}", "**/--()()", "$")

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def equation_value(response: str) -> Fraction | None:
    """Return the value of a response's arithmetic expression, computed exactly; None without one.

    The last line that is an expression counts. A name before it (`x = 3 * 4`) and what follows it after an equals sign
    (`3 * 4 = 12`) are ignored. Numbers may have commas between thousands and a dollar sign. Expressions are read by
    `ast.parse` and never executed; only numbers, `+`, `-`, `*`, `/` and brackets are known.
    """
    lines = [line for line in response.splitlines() if line.strip()][-MOST_LINES:]
    values = (_value_of_line(line) for line in reversed(lines))
    return next((value for value in values if value is not None), None)


def _value_of_line(line: str) -> Fraction | None:
    sides = [side.strip() for side in _THOUSANDS.sub("", line.translate(_SIGNS)).split("=")]
    text = sides[1] if len(sides) > 1 and sides[0].isidentifier() else sides[0]
    if len(text) > LONGEST_EXPRESSION:
        return None
    try:
        return _value(ast.parse(text, mode="eval").body, text)
    except (
        SyntaxError,
        ValueError,
        ZeroDivisionError,
        RecursionError,
        MemoryError,
    ):  # the last: brackets nested too deeply
        return None


def _value(node: ast.expr, text: str) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, text), _value(node.right, text))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, text)
        return -value if isinstance(node.op, ast.USub) else value
    written = ast.get_source_segment(text, node) or ""  # the float that the parser made of it would be rounded
    if isinstance(node, ast.Constant) and _PLAIN_NUMBER.fullmatch(written):
        return Fraction(written)
    raise ValueError(f"{written!r} is neither a number nor an operation")


def equation(prompt: str, real: str, generated: str) -> Score:
    """Return 1 if the expressions of the generated and the real response have the same value."""
    return compared(equation_value(real), equation_value(generated))
