"""Scores of answers as GSM8K has them: working, then a last line with the final answer."""

from __future__ import annotations

import re

ANSWER_MARK = "#### "
"""What stands before the final answer in GSM8K (Cobbe et al., arXiv 2110.14168), at the start of its own, last line."""

_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?")

NAMED_SCORES = ("exact_match", "answer_line", "format")
"""The numbers that [`gsm8k`] gives."""


def has_answer_line(response: str) -> bool:
    """Whether a line of the response begins with the answer mark and goes on."""
    return any(line.startswith(ANSWER_MARK) and line[len(ANSWER_MARK) :].strip() for line in response.splitlines())


def has_format(response: str) -> bool:
    """Whether the response looks as GSM8K's answers do: lines of working, then one answer line with a number, the last."""
    *working, last = response.splitlines() or [""]
    return (
        any(line.strip() for line in working)
        and not any(line.startswith(ANSWER_MARK) for line in working)
        and last.startswith(ANSWER_MARK)
        and _NUMBER.fullmatch(last.removeprefix(ANSWER_MARK).strip()) is not None
    )


def final_answer(response: str) -> str | None:
    """What stands behind the last answer mark of the response, up to the line's end, without commas and spaces around.

    None if there is no answer mark, or nothing behind it.
    """
    mark = response.rfind(ANSWER_MARK)
    if mark == -1:
        return None
    return response[mark + len(ANSWER_MARK) :].split("\n", 1)[0].replace(",", "").strip() or None


def gsm8k(prompt: str, real: str, generated: str) -> dict[str, float]:
    """Scores of an answer to a GSM8K problem, each 0 or 1.

    Returns:
        `exact_match`: the final answer is the real one; `answer_line`: there is a line with the answer mark; `format`:
        the whole answer looks as GSM8K's do. Nothing if the real response has no answer line, as in other data.
    """
    expected = final_answer(real)
    if expected is None:
        return {}
    return {
        "exact_match": float(final_answer(generated) == expected),
        "answer_line": float(has_answer_line(generated)),
        "format": float(has_format(generated)),
    }
