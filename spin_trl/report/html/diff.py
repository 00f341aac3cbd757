"""Marks the differences between two texts, word by word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice

MOST_WORDS = 400
"""Maximum number of words of each text that are compared."""

MOST_MATCHES = 5_000
"""Maximum number of pairs of equal words, one from each text. Of repetitive answers fewer words are compared, which would
otherwise take seconds."""

_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_PUNCTUATION = r"!-/:-@\[-`{-~"
_WORD = re.compile(rf"[{_CJK}]|[{_PUNCTUATION}]+|[^\s{_PUNCTUATION}{_CJK}]+")
"""A Chinese or Japanese character, a run of ASCII punctuation, or any other run of characters without white space. Letters,
accents and joined emoji stay together."""


@dataclass(frozen=True)
class Part:
    """A piece of a text.

    Attributes:
        text: text of the piece.
        differs: whether the other text differs here.
    """

    text: str
    differs: bool = False


def compare_texts(one: str, other: str) -> tuple[list[Part], list[Part], bool]:
    """Find where two texts differ, ignoring white space.

    Returns:
        The parts of each text, with those missing from the other one marked, and whether the texts were compared to their
        ends. Joined, the parts give the original texts; text that was not compared is unmarked.
    """
    first, second = _word_spans(one), _word_spans(other)
    names = [one[start:end] for start, end in first], [other[start:end] for start, end in second]
    length = _comparable(*names)
    marked: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    matcher = SequenceMatcher(None, names[0][:length], names[1][:length], autojunk=False)
    for tag, start, end, other_start, other_end in matcher.get_opcodes():
        if tag != "equal":
            if start < end:
                marked[0].append((first[start][0], first[end - 1][1]))
            if other_start < other_end:
                marked[1].append((second[other_start][0], second[other_end - 1][1]))
    return _parts(one, marked[0]), _parts(other, marked[1]), max(len(first), len(second)) <= length


def _comparable(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many words can be compared in reasonable time."""
    length = MOST_WORDS
    while length > 1:
        counts, others = Counter(one[:length]), Counter(other[:length])
        if sum(count * others[word] for word, count in counts.items()) <= MOST_MATCHES:
            break
        length //= 2
    return length


def _word_spans(text: str) -> list[tuple[int, int]]:
    """Return the start and end of each word of a text, for at most one word more than is compared."""
    return [word.span() for word in islice(_WORD.finditer(text), MOST_WORDS + 1)]


def _parts(text: str, marked: Sequence[tuple[int, int]]) -> list[Part]:
    parts, at = [], 0
    for start, end in marked:
        parts += [Part(text[at:start]), Part(text[start:end], differs=True)]
        at = end
    return [part for part in [*parts, Part(text[at:])] if part.text]
