"""Texts that nobody has checked, made fit to be shown: what can't be seen, or turns what follows around, is written out.

Escaping for HTML is not done here: the page's templates do it, for everything.
"""

from __future__ import annotations

import re

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Control characters, but not tab and newline; marks that override the direction of text; what is no character at all."""

_CONTROL_PICTURES = 0x2400
_DELETE = 0x7F


def visible(text: str) -> str:
    """A text in which characters that can't be seen, or can't be written to a file, stand as names of themselves.

    `\\x00` becomes `␀`; a right-to-left override, and one half of a surrogate pair, become `⟨U+202E⟩` and `⟨U+D83D⟩`.
    """
    return _UNSEEN.sub(_name_of_character, text.replace("\r\n", "\n"))


def cut(text: str, length: int) -> tuple[str, int]:
    """The beginning of a text, and how many characters were left out."""
    return text[:length], max(len(text) - length, 0)


def _name_of_character(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < ord(" "):
        return chr(_CONTROL_PICTURES + code)
    return "␡" if code == _DELETE else f"⟨U+{code:04X}⟩"
