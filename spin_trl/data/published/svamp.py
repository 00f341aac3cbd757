"""SVAMP (Patel et al., arXiv 2103.07191, MIT licence) as published: word problems, with an equation as the human response.

The training file holds 3,138 problems of MAWPS and ASDiv-A, the test file the 1,000 problems of the challenge set. The same
problem occurs several times with other numbers, so development problems are split off by their text without numbers.

    spin-trl run recipe.yaml --dataset_name spin_trl.data.published.svamp:load_svamp --dataset_config FOLDER
"""

from __future__ import annotations

import logging
import operator
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...counts import counted
from ...errors import DataError
from ...files import home_expanded
from ..reading.csv_text import read_csv
from ..reading.folder import choose_split
from ..reading.json_rows import read_json_rows

logger = logging.getLogger(__name__)

SYSTEM = "Write the equation."
"""System message of every prompt."""

TOLERANCE = Fraction(1, 1000)
"""Difference up to which an equation gives the published answer: some numbers and answers are rounded."""

DEVELOPMENT_SHARE = 0.07
"""Share of the training problems that the split `development` has, at least: templates are not divided."""

SVAMP_SAMPLE = Path(__file__).parent / "svamp_sample"
"""Folder of a few of the problems, one file per split, with SVAMP's licence."""

_COLUMNS = ("Question", "Numbers", "Equation", "Answer", "Body")
_TRAIN, _TEST = ("train.csv",), ("test.csv", "dev.csv")
_IN_THE_REPOSITORY = Path("data") / "mawps-asdiv-a_svamp"
_PLACEHOLDER = re.compile(r"number(\d+)")
_OPERATIONS: dict[str, tuple[int, Callable[[Fraction, Fraction], Fraction]]] = {
    "+": (1, operator.add),
    "-": (1, operator.sub),
    "*": (2, operator.mul),
    "/": (2, operator.truediv),
}
_STRONGEST = 3


@dataclass(frozen=True)
class Problem:
    """One word problem.

    Attributes:
        question: the text, with its numbers.
        equation: the reference in infix notation: `(8 - 2) * 3`.
        template: words of the text, with placeholders for its numbers, in lower case and without punctuation; problems with
            the same template belong together.
        body: words of the text without its question, in the same form.
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


@dataclass(frozen=True)
class Infix:
    """An expression in infix notation.

    Attributes:
        text: the expression, with brackets only where they are needed.
        value: its exact value; None if it divides by 0.
        strength: how strongly its outermost operation binds: 1 for `+` and `-`, 2 for `*` and `/`, 3 for a number.
    """

    text: str
    value: Fraction | None
    strength: int


def load_svamp(split: str, folder: str | None = None) -> Dataset:
    """Load SVAMP's published files as conversations that ask for an equation.

    Args:
        split: `train`, `development` (split off from `train`, with other templates), `test`, or `test_new` (test problems
            whose body, the text without its question, is in no training problem). Parts are written like `test[:200]`.
        folder: folder that holds `train.csv` and `test.csv` (or `dev.csv`, as the authors call it), or a copy of the
            authors' repository, arkilpatel/SVAMP. In a recipe: `dataset_config`.

    Returns:
        A dataset with the column `messages`.

    Raises:
        DataError: if there is no such folder, file, split or column, or a row can't be read.
    """
    if not folder:
        raise DataError(
            "SVAMP needs `dataset_config`: a folder with its published files, train.csv and test.csv (or dev.csv), or a "
            "copy of the repository arkilpatel/SVAMP."
        )
    place = home_expanded(folder)

    def training(is_development: bool) -> Dataset:
        problems = _told(_file(place, _TRAIN), is_quiet=is_development)
        return as_rows(split_by_template(problems, round(DEVELOPMENT_SHARE * len(problems)))[is_development])

    def test_new() -> Dataset:
        known = {problem.body for problem in read_problems(_file(place, _TRAIN)).problems}
        return as_rows([problem for problem in _told(_file(place, _TEST)) if problem.body not in known])

    readers = {
        "train": lambda: training(False),
        "development": lambda: training(True),
        "test": lambda: as_rows(_told(_file(place, _TEST))),
        "test_new": test_new,
    }
    return choose_split(readers, split, place)


def load_svamp_sample(split: str) -> Dataset:
    """Load the problems that ship with this package: 64 to train on, 24 for development, 32 of the challenge set.

    Args:
        split: `train`, `development` or `test`, or a part like `test[:8]`.

    Returns:
        A dataset with the column `messages`.

    Raises:
        DataError: if there is no such split.
    """
    names = ("train", "development", "test")
    readers = {name: partial(_sample_rows, name) for name in names}
    return choose_split(readers, split, SVAMP_SAMPLE)


def read_problems(file: Path) -> Problems:
    """Read a file of SVAMP: the columns Question, Numbers, Equation (in prefix notation), Answer and Body.

    Raises:
        DataError: if there is no such file or column, or a row can't be read; the message gives the row, counted from 0.
    """
    rows = read_csv([file], None, {}, bad_as_rows=False)
    missing = [name for name in _COLUMNS if name not in rows.column_names]
    if missing:
        raise DataError(f"{file} has no column {missing[0]!r}; it has {rows.column_names}. Is it a file of SVAMP?")
    problems = []
    for number, row in enumerate(rows):
        try:
            problem = _as_problem(row)
        except ValueError as error:
            raise DataError(f"{file}, row {number}: the problem can't be read: {error}") from error
        problems += [problem] if problem else []
    return Problems(problems, len(rows) - len(problems))


def infix(prefix: str, numbers: Sequence[str]) -> Infix:
    """Write an equation in infix notation, with brackets only where they are needed.

    Args:
        prefix: prefix notation, in which `number0` is the first number: `* - number0 number1 3.0`.
        numbers: the numbers.

    Raises:
        ValueError: if it is not one whole expression of numbers, `+`, `-`, `*` and `/`, or lacks a number.
    """
    tokens = iter(prefix.split())
    read = _expression(tokens, prefix, numbers)
    rest = next(tokens, None)
    if rest is not None:
        raise ValueError(f"{rest!r} follows the end of the equation {prefix!r}")
    return read


def without_point_zero(number: str) -> str:
    """Write a whole number without `.0`: `56.0` as `56`; return `0.25` unchanged."""
    whole = number.removesuffix(".0")
    return whole if whole.isdigit() else number


def split_by_template(
    problems: Sequence[Problem], development: int, seed: int = 0
) -> tuple[list[Problem], list[Problem]]:
    """Split off development problems, such that all problems with the same template are on one side.

    Args:
        problems: all problems.
        development: minimum number of development problems.
        seed: seed of the order in which templates are drawn.

    Returns:
        The training problems and the development problems.
    """
    by_template: dict[str, list[Problem]] = {}
    for problem in problems:
        by_template.setdefault(problem.template, []).append(problem)
    templates = sorted(by_template)
    random.Random(seed).shuffle(templates)
    held_out: list[Problem] = []
    for template in templates:
        if len(held_out) >= development:
            break
        held_out += by_template.pop(template)
    return [problem for problem in problems if problem.template in by_template], held_out


def as_rows(problems: Sequence[Problem]) -> Dataset:
    """Return the problems as rows of an SFT dataset.

    Raises:
        DataError: if there are none.
    """
    if not problems:
        raise DataError("SVAMP: no problem is left.")
    return Dataset.from_list([{"messages": problem.messages()} for problem in problems])


def _expression(tokens: Iterator[str], prefix: str, numbers: Sequence[str]) -> Infix:
    token = next(tokens, None)
    if token is None:
        raise ValueError(f"the equation {prefix!r} ends too early")
    if token not in _OPERATIONS:
        found = _PLACEHOLDER.fullmatch(token)
        text = _with_number(found, numbers) if found else without_point_zero(token)
        return Infix(text, Fraction(text), _STRONGEST)
    strength, operation = _OPERATIONS[token]
    left, right = (_expression(tokens, prefix, numbers) for _ in range(2))
    text = f"{_bracketed(left, strength)} {token} {_bracketed(right, strength + (token in '-/'))}"
    if left.value is None or right.value is None or (token == "/" and not right.value):
        return Infix(text, None, strength)
    return Infix(text, operation(left.value, right.value), strength)


def _with_number(placeholder: re.Match[str], numbers: Sequence[str]) -> str:
    index = int(placeholder[1])
    if index >= len(numbers):
        raise ValueError(f"{placeholder[0]!r} has no number: the row has {counted(len(numbers), 'number')}")
    return numbers[index]


def _bracketed(expression: Infix, strength: int) -> str:
    return f"({expression.text})" if expression.strength < strength else expression.text


def _as_problem(row: dict[str, Any]) -> Problem | None:
    """Return the problem of a row, or None if its equation gives another value than its answer."""
    numbers = [without_point_zero(number) for number in row["Numbers"].split()]
    equation = infix(row["Equation"], numbers)
    if equation.value is None or abs(equation.value - Fraction(row["Answer"])) > TOLERANCE:
        return None
    question = _PLACEHOLDER.sub(lambda found: _with_number(found, numbers), row["Question"])
    return Problem(question.strip(), equation.text, _words(row["Question"]), _words(row["Body"]))


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _told(file: Path, *, is_quiet: bool = False) -> list[Problem]:
    """Return the problems of a file, and log how many were dropped."""
    found = read_problems(file)
    if found.dropped and not is_quiet:
        logger.warning(
            "%s: %s of %s left out, because the equation does not give the answer.",
            file, counted(found.dropped, "problem"), f"{len(found.problems) + found.dropped:,}",
        )  # fmt: skip
    return found.problems


def _file(folder: Path, names: Sequence[str]) -> Path:
    """Return the file of a split, by one of its names, in the folder or in the place that the authors keep it."""
    places = (folder, folder / _IN_THE_REPOSITORY)
    found = next((place / name for place in places for name in names if (place / name).is_file()), None)
    if found is None:
        raise DataError(
            f"There is no {' or '.join(names)} in {folder}, which `dataset_config` names. SVAMP's files are in "
            f"{_IN_THE_REPOSITORY} of the repository arkilpatel/SVAMP."
        )
    return found


def _sample_rows(split: str) -> Dataset:
    return read_json_rows([SVAMP_SAMPLE / f"{split}.jsonl"], split, {}, bad_as_rows=False)
