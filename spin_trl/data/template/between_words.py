"""Split a long text between words, so that the `tokenizers` library can work on its parts on all cores at once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

PART = 250_000
"""Least number of characters of a part."""

_BETWEEN_WORDS = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])")

_BEFORE = ("", "a ", "B\n", "0", "0 ", "'", "it'", "é", "日本", ".", ". ", "  ", "\n\n ", "-", "🚤")
_BEHIND = (" b", " s", " Cd'll", " e f", " G\n\n", " h0", " i.", " jé ", " K日")


def split(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """Split a text such that the ids of the parts, concatenated, are those of the whole text without special tokens.

    Args:
        tokenizer: tokenizer of the text, whose call only passes it to the `tokenizers` library.
        text: text of any length.

    Returns:
        Parts of at least `PART` characters, or the whole text if it is shorter or nothing is known about the tokenizer.
    """
    if len(text) < 2 * PART or not _splits_between_words(tokenizer):
        return [text]
    cuts = [0, *_cuts(text), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(cuts)]


def _cuts(text: str) -> Iterator[int]:
    """Yield positions between two words of ASCII letters with one space between them."""
    place = 0
    while len(text) - place >= 2 * PART:
        found = _BETWEEN_WORDS.search(text, place + PART, len(text) - PART + 2)
        if found is None:
            return
        place = found.start()
        yield place


def _splits_between_words(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether two words with one space between them are tokenised as if they were two texts.

    First, added tokens are extracted; then the rest is normalised, and split into pieces that are tokenised separately. The
    regular expressions that do this end a piece at the end of a word, whatever precedes it. Others are known by trying.
    """
    added = tokenizer.added_tokens_decoder.values()
    if any(one.lstrip or one.rstrip or re.search(r"\s", one.content) for one in added):
        return False  # one may lie on both sides of the space, or consume it
    pre, normalizer = tokenizer.backend_tokenizer.pre_tokenizer, tokenizer.backend_tokenizer.normalizer
    if pre is None or not isinstance(normalizer, normalizers.NFC | None):
        return False

    def pieces(text: str) -> list[str]:
        return [piece for piece, _ in pre.pre_tokenize_str(text)]

    return all(
        pieces(f"{before}a{word}") == pieces(f"{before}a") + pieces(word) for before in _BEFORE for word in _BEHIND
    )
