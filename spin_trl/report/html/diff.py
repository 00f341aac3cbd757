"""Marks by words where two texts differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice

MOST_WORDS = 400
"""Words of either text that are compared."""

MOST_MATCHES = 5_000
"""Pairs of equal words, one of either text, that are looked at: where answers repeat themselves, fewer words are
compared, or they would take seconds."""

_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_PUNCTUATION = r"!-/:-@\[-`{-~"
_WORD = re.compile(rf"[{_CJK}]|[{_PUNCTUATION}]+|[^\s{_PUNCTUATION}{_CJK}]+")
"""A Chinese or Japanese character; a run of ASCII punctuation; or whatever else stands between white space. Letters,
accents and joined emoji stay together."""


@dataclass(frozen=True)
class Part:
    """A piece of a text.

    Attributes:
        text: of the piece.
        differs: whether the other text has something else there.
    """

    text: str
    differs: bool = False


def compare_texts(one: str, other: str) -> tuple[list[Part], list[Part], bool]:
    """Where two texts differ; white space is not compared.

    Returns:
        The parts of either text, those marked that the other has not, and whether the texts were compared to their ends.
        Put together again, the parts are the texts; what was not compared is unmarked.
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
    """How many words can be compared in reasonable time."""
    length = MOST_WORDS
    while length > 1:
        counts, others = Counter(one[:length]), Counter(other[:length])
        if sum(count * others[word] for word, count in counts.items()) <= MOST_MATCHES:
            break
        length //= 2
    return length


def _word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end: one more than are compared, if there are as many."""
    return [word.span() for word in islice(_WORD.finditer(text), MOST_WORDS + 1)]


def _parts(text: str, marked: Sequence[tuple[int, int]]) -> list[Part]:
    parts, at = [], 0
    for start, end in marked:
        parts += [Part(text[at:start]), Part(text[start:end], differs=True)]
        at = end
    return [part for part in [*parts, Part(text[at:])] if part.text]
