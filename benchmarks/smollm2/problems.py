"""SVAMP's word problems as prompts, with an equation as the human response.

The training file holds 3,138 problems of MAWPS and ASDiv-A, the test file 1,000 problems of the challenge set. Templates
occur several times with other numbers, so development problems are split off by the text without its numbers.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from spin_trl.evaluation.scorers.equation import equation_value

SYSTEM = "Write the equation."
"""System message of every prompt."""

TOLERANCE = Fraction(1, 1000)
"""Relative difference up to which an equation gives the published answer: some answers are rounded."""

_PLACEHOLDER = re.compile(r"number(\d+)")


@dataclass(frozen=True)
class Problem:
    """One word problem.

    Attributes:
        question: the text, with its numbers.
        equation: the reference in infix notation: `(8 - 2) * 3`.
        template: the text without its numbers, in lower case; problems with the same template belong together.
        body: the template without its question, in lower case.
    """

    question: str
    equation: str
    template: str
    body: str

    def messages(self) -> list[dict[str, str]]:
        """Return the conversation, the equation included."""
        return [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": self.question},
            {"role": "assistant", "content": self.equation},
        ]


@dataclass(frozen=True)
class Problems:
    """The problems of one file.

    Attributes:
        problems: problems whose equation gives the published answer.
        dropped: number of problems whose equation gives another value.
    """

    problems: list[Problem]
    dropped: int


def read_problems(file: Path) -> Problems:
    """Read a file of SVAMP: the columns Question, Numbers, Equation (in prefix notation), Answer and Body."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    problems = []
    for row in rows:
        numbers = [plain(number) for number in row["Numbers"].split()]
        equation = infix(row["Equation"], numbers)
        value, answer = equation_value(equation), Fraction(row["Answer"])
        if value is None or abs(value - answer) > abs(answer) * TOLERANCE:
            continue
        question = _PLACEHOLDER.sub(lambda found, numbers=numbers: numbers[int(found[1])], row["Question"])
        problems.append(Problem(question.strip(), equation, _same(row["Question"]), _same(row["Body"])))
    return Problems(problems, len(rows) - len(problems))


def plain(number: str) -> str:
    """Write a whole number without `.0`: `56.0` as `56`, `0.25` as it is."""
    whole = number.removesuffix(".0")
    return whole if whole.isdigit() else number


def infix(prefix: str, numbers: Sequence[str]) -> str:
    """Write an equation in infix notation, with brackets only where they are needed.

    Args:
        prefix: prefix notation, in which `number0` is the first number: `* - number0 number1 3.0`.
        numbers: the numbers.
    """
    tokens = iter(prefix.split())
    strength = {"+": 1, "-": 1, "*": 2, "/": 2}

    def read() -> tuple[str, int]:
        token = next(tokens)
        if token not in strength:
            found = _PLACEHOLDER.fullmatch(token)
            return (numbers[int(found[1])] if found else plain(token)), 3
        (left, left_strength), (right, right_strength) = read(), read()
        own = strength[token]
        left = f"({left})" if left_strength < own else left
        right = f"({right})" if right_strength < own or (right_strength == own and token in "-/") else right
        return f"{left} {token} {right}", own

    return read()[0]


def split(problems: Sequence[Problem], development: int, seed: int = 0) -> tuple[list[Problem], list[Problem]]:
    """Split off development problems, such that all problems with the same template are on one side.

    Args:
        problems: all problems.
        development: minimum number of development problems.
        seed: seed of the order in which templates are drawn.

    Returns:
        The training problems and the development problems.
    """
    templates = sorted({problem.template for problem in problems})
    random.Random(seed).shuffle(templates)
    by_template: dict[str, list[Problem]] = {}
    for problem in problems:
        by_template.setdefault(problem.template, []).append(problem)
    held_out: list[Problem] = []
    for template in templates:
        if len(held_out) >= development:
            break
        held_out += by_template.pop(template)
    return [problem for problem in problems if problem.template in by_template], held_out


def as_rows(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Return the problems as rows of an SFT dataset."""
    return [{"messages": problem.messages()} for problem in problems]


def _same(text: str) -> str:
    return " ".join(text.lower().split())
