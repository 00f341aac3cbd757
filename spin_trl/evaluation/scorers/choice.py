"""Compare the letters of multiple-choice answers."""

from __future__ import annotations

import re

from ..scoring import Score, compared

# A lower-case letter, or I, counts as a word unless it is in brackets or followed only by a punctuation mark.
_ANNOUNCED = re.compile(
    r"(?i:answer|choice)(?i:\s+is)?\s*:?\s*\**(?:([A-HJ])\b(?!')|\(([A-Ja-j])\)|([A-Ja-j])\**(?=[.,;:!]|\s*$))"
    r"|(?i:option)\s+\(?([A-HJ])\b",
    re.MULTILINE,
)
_FIRST_LETTER = re.compile(r"\s*\(?([A-Ja-j])(?:[).:]|\s*$)")
_LETTER_ALONE = re.compile(r"(?<![\w'])([A-HJ])(?![\w'])")  # I is a word


def choice_letter(response: str) -> str | None:
    """Return the letter, from A to J, that a response chooses; None if it chooses none.

    An announced answer takes precedence (`answer is B`, `Answer: (b)`), then a letter at the beginning of the response (`B`,
    `(B) ...`, `B. ...`), then the last capital letter that stands alone.
    """
    announced = _ANNOUNCED.findall(response)
    if announced:
        return "".join(announced[-1]).upper()
    first = _FIRST_LETTER.match(response)
    if first:
        return first.group(1).upper()
    alone = _LETTER_ALONE.findall(response)
    return str(alone[-1]) if alone else None


def choice(prompt: str, real: str, generated: str) -> Score:
    """Return 1 if both responses choose the same letter."""
    return compared(choice_letter(real), choice_letter(generated))
