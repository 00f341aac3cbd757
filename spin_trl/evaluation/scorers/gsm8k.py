"""Score answers in GSM8K's format: working, then a last line with the final answer."""

from __future__ import annotations

import re

ANSWER_MARK = "#### "
"""Mark before the final answer in GSM8K (Cobbe et al., arXiv 2110.14168), at the start of a separate last line."""

_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?")

NAMED_SCORES = ("exact_match", "answer_line", "format")
"""Names of the numbers that [`gsm8k`] returns."""


def has_answer_line(response: str) -> bool:
    """Return whether a line of the response begins with the answer mark and has text after it."""
    return any(line.startswith(ANSWER_MARK) and line[len(ANSWER_MARK) :].strip() for line in response.splitlines())


def has_format(response: str) -> bool:
    """Return whether the response has GSM8K's format: lines of working, then a single answer line with a number."""
    *working, last = response.splitlines() or [""]
    return (
        any(line.strip() for line in working)
        and not any(line.startswith(ANSWER_MARK) for line in working)
        and last.startswith(ANSWER_MARK)
        and _NUMBER.fullmatch(last.removeprefix(ANSWER_MARK).strip()) is not None
    )


def final_answer(response: str) -> str | None:
    """Return the text after the response's last answer mark, to the end of the line, without commas or surrounding spaces.

    None if there is no answer mark, or no text after it.
    """
    mark = response.rfind(ANSWER_MARK)
    if mark == -1:
        return None
    return response[mark + len(ANSWER_MARK) :].split("\n", 1)[0].replace(",", "").strip() or None


def gsm8k(prompt: str, real: str, generated: str) -> dict[str, float]:
    """Score an answer to a GSM8K problem; each score is 0 or 1.

    Returns:
        `exact_match`: whether the final answer equals the real one; `answer_line`: whether there is a line with the answer
        mark; `format`: whether the whole answer has GSM8K's format. Empty if the real response has no answer, as in other
        data.
    """
    expected = final_answer(real)
    if expected is None:
        return {}
    return {
        "exact_match": float(final_answer(generated) == expected),
        "answer_line": float(has_answer_line(generated)),
        "format": float(has_format(generated)),
    }
