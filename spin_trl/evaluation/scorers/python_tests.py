"""Run generated Python code, and count how many of its row's assertions hold (as in MBPP, arXiv 2108.07732)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..assertions import Statement, read_steps
from ..isolation.program import StepKind
from ..isolation.room import Room
from ..scoring import Permission, Score

RUNS_GENERATED_CODE = True
"""Tells that the function of this module makes the scorer, if a recipe allows it."""

NAMED_SCORES = ("all", "unseen", "share", "in_child")
"""Names of the numbers that [`PythonTests`] returns."""

_FENCE = re.compile(r"^[ \t]*(?P<marks>```+|~~~+)[ \t]*(?P<name>[\w+-]*)[^\n]*$", re.MULTILINE)
_PYTHON = ("python", "py", "python3")


def code_of(response: str) -> str:
    """Return the code of a response, with line feeds at the ends of its lines.

    That is its first fenced block that is marked as Python; without one, its first fenced block that has no name; without a
    block, the whole response. A block that is never closed goes to the end.
    """
    text = response.replace("\r\n", "\n").replace("\r", "\n")
    blocks = _blocks(text)
    for names in (_PYTHON, ("",)):
        for name, block in blocks:
            if name in names:
                return block
    return text


def _blocks(text: str) -> list[tuple[str, str]]:
    """Return the fenced blocks of a text, each with its name in lower case."""
    found: list[tuple[str, str]] = []
    begin: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if begin is None:
            begin = fence
        elif not fence["name"] and fence["marks"].startswith(begin["marks"]):
            found.append((begin["name"].lower(), text[begin.end() + 1 : fence.start()]))
            begin = None
    if begin is not None:
        found.append((begin["name"].lower(), text[begin.end() + 1 :]))
    return found


class PythonTests:
    """The scorer `python_tests`.

    Args:
        room: where the generated code runs.
    """

    def __init__(self, room: Room) -> None:
        self.room = room

    def __call__(
        self,
        prompt: str,
        real: str,
        generated: str,
        *,
        test_list: Sequence[str] | str | None,
        test_setup_code: str | None = None,
        test_imports: Sequence[str] | None = None,
    ) -> Score:
        """Run the code of a generated response, and score it by the assertions of its row.

        Args:
            prompt: prompt; assertions that it shows don't count as unseen.
            real: real response, which is not used.
            generated: generated response.
            test_list: assertions, each a text; or all in one text.
            test_setup_code: code that the assertions need, run after the generated code.
            test_imports: imports that the assertions need, run before the generated code.

        Returns:
            `all`: whether all assertions hold; `unseen`: whether all hold that the prompt does not show (absent if it shows
            all); `share`: share of the assertions that hold; `in_child`: share of the assertions that were checked in the
            process that ran the code. Empty if the row has no assertions.

        Raises:
            ValueError: if the row's tests are not Python, or no texts.
            IsolationError: if a layer of isolation can't be had any more.
        """
        steps = _steps(test_list, prompt)
        if not any(step.is_assertion for step in steps):
            return {}
        setup = [(StepKind.RUN, _source("test_setup_code", test_setup_code))]
        played = self.room.play(
            {
                "before": "\n".join(_sources("test_imports", test_imports)),
                "code": code_of(generated),
                "steps": [*setup, *((step.kind, step.source) for step in steps)],
            }
        )
        return _score(steps, played.lines)


def python_tests(permission: Permission) -> PythonTests:
    """Return the scorer for code that may be run.

    Raises:
        RecipeError: if this is not allowed, or the machine lacks layers of isolation.
    """
    return PythonTests(permission.room("python_tests"))


def _steps(test_list: Any, prompt: str) -> list[Statement]:
    texts = _sources("test_list", test_list)
    try:
        return read_steps(texts, prompt)
    except SyntaxError as error:
        raise ValueError(f"`test_list` can't be read as Python: {error}") from error


def _sources(name: str, value: Any) -> list[str]:
    if value is None or isinstance(value, str):
        return [value] if value else []
    if not isinstance(value, Sequence) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"`{name}` is {value!r:.80}; expected Python source, as a text or a list of texts")
    return list(value)


def _source(name: str, value: Any) -> str:
    return "\n".join(text.replace("\r\n", "\n") for text in _sources(name, value))


def _score(steps: Sequence[Statement], lines: Sequence[Any]) -> dict[str, float]:
    """Return the score of a program, from what its process sent, which may be of any form.

    Args:
        steps: statements of the tests; in the program, the setup code comes before them.
        lines: what was sent. Of several lines about a step, the first counts.
    """
    sent: dict[int, Mapping[str, Any]] = {}
    for line in lines:
        if isinstance(line, Mapping) and isinstance(line.get("step"), int):
            sent.setdefault(line["step"] - 1, line)
    verdicts = [(step, step.holds(sent.get(number, {}))) for number, step in enumerate(steps) if step.is_assertion]
    held = [holds for _, holds in verdicts]
    unseen = [holds for step, holds in verdicts if not step.is_shown]
    return {
        "all": float(all(held)),
        **({"unseen": float(all(unseen))} if unseen else {}),
        "share": sum(held) / len(held),
        "in_child": sum(step.kind == StepKind.CHECK for step, _ in verdicts) / len(verdicts),
    }
