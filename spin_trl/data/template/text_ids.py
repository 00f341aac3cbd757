"""Tokenise long texts with the same result as the tokenizer's own call, but without unused work.

A line of a data file may be a whole book, and tokenising it is most of the work of preparing it. So a long text is only
tokenised once, although it is needed both with and without its prompt, the tokens' offsets in the text are not computed, and
its parts are tokenised on all cores.
"""

from __future__ import annotations

import functools
import re
from typing import TypeGuard

from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ...errors import DataError
from ...files import parse_json
from . import between_words

LONG = 50_000
"""Number of characters from which a text counts as long. For shorter texts, the tokenizer's own call is fast enough."""

_AROUND = ("Ab, c", "x\n\n", " é ")
"""Texts placed around a token to test whether a text can be cut before it."""


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> list[int]:
    """Return the ids of a text, identical to those of the tokenizer's own call.

    Args:
        tokenizer: tokenizer to use.
        text: text of any length.
        special: whether to add special tokens around it.

    Raises:
        DataError: if the tokenizer can't tokenise the text, such as a vocabulary without a token for unknown words.
    """
    try:
        if len(text) < LONG or not _calls_backend(tokenizer):
            return list(tokenizer(text, add_special_tokens=special)["input_ids"])
        tokenizer("", add_special_tokens=special)  # configures its backend as for any call: no padding, no truncation
        backend, parts = tokenizer.backend_tokenizer, between_words.split(tokenizer, text)
        if len(parts) == 1:
            return list(backend.encode_batch_fast(parts, add_special_tokens=special)[0].ids)
        found = Encoding.merge(backend.encode_batch_fast(parts, add_special_tokens=False), growing_offsets=False)
        return list(backend.post_process(found, add_special_tokens=special).ids)
    except Exception as error:
        if type(error) is not Exception:  # `tokenizers` raises nothing more specific
            raise
        raise DataError(
            f"The tokenizer can't tokenise {text!r:.60}: {error}. Restore the tokenizer's files."
        ) from error


def _calls_backend(tokenizer: PreTrainedTokenizerBase) -> TypeGuard[PreTrainedTokenizerFast]:
    """Return whether a tokenizer's call only passes a text to the `tokenizers` library."""
    cls = type(tokenizer)
    return (
        isinstance(tokenizer, PreTrainedTokenizerFast)
        and cls.__call__ is PreTrainedTokenizerFast.__call__
        and cls._encode_plus is PreTrainedTokenizerFast._encode_plus
    )


class Cuts:
    """Positions where texts may be cut such that the ids of both parts, concatenated, are those of the whole text.

    The `tokenizers` library first extracts the tokens that were added to the vocabulary from a text, and then normalises and
    splits the pieces between them separately. So a text may be cut before such a token unless another one spans that
    position. In addition, each token is tested once.

    Args:
        tokenizer: tokenizer of the texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values() if _calls_backend(tokenizer) else ()
        # Normalised tokens are extracted later, in each piece.
        raw = [one for one in added if one.content and not one.normalized]
        if tokenizer.split_special_tokens or any(one.single_word for one in raw):
            raw = []  # special tokens are plain text, or a token is only recognised if no letter is next to it
        # A token that consumes the white space around it, or begins with some, does not end the text before it.
        exact = [one for one in raw if one.special and not (one.lstrip or one.rstrip or one.content[0].isspace())]
        self._exact, self._raw = (_any_of([one.content for one in tokens]) for tokens in (exact, raw))
        self._reach = max((len(one.content) for one in raw), default=0)
        self._tried: dict[str, bool] = {}

    def last(self, text: str, start: int) -> int:
        """Return the last position after `start` where a text may be cut, or `start` if there is none."""
        found = [match for match in self._exact.finditer(text, start) if match.start() > start]
        return next((one.start() for one in reversed(found) if self._is_cut(text, one)), start)

    def _is_cut(self, text: str, match: re.Match[str]) -> bool:
        place = match.start()
        longest = self._raw.match(text, place)
        before = (self._raw.match(text, at) for at in range(max(place - self._reach + 1, 0), place))
        crossed = any(one is not None and one.end() > place for one in before)
        return longest is not None and longest[0] == match[0] and not crossed and self._ends(match[0])

    def _ends(self, token: str) -> bool:
        """Return whether the text before a token is tokenised as if nothing followed."""
        if token not in self._tried:
            self._tried[token] = all(
                text_ids(self.tokenizer, before + token + behind)
                == text_ids(self.tokenizer, before) + text_ids(self.tokenizer, token + behind)
                for before in _AROUND
                for behind in _AROUND
            )
        return self._tried[token]


class LeastIds:
    """A lower bound of the number of a long text's ids, from its length alone: tokenising a book takes seconds.

    In byte-level BPE the ids stand for all bytes of a text, so there are at least as many as its characters divided by the
    longest token's bytes. Other tokenizers may drop characters, or have one token for several unknown ones, so for them
    nothing is known.

    Args:
        tokenizer: tokenizer of the texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def of(self, text: str) -> int:
        """Return a number that a text has at least as many ids as; 0 if nothing is known."""
        return 0 if len(text) < LONG or self._longest is None else -(-len(text) // self._longest)

    @functools.cached_property
    def _longest(self) -> int | None:
        """The bytes of the longest token, or None if the ids may not stand for all bytes."""
        if not _calls_backend(self._tokenizer):
            return None
        backend = parse_json(self._tokenizer.backend_tokenizer.to_str())
        splits = backend["pre_tokenizer"] or {}
        steps = splits.get("pretokenizers", [splits])
        keeps_all = (
            backend["model"]["type"] == "BPE"
            and backend["normalizer"] is None
            and any(step.get("type") == "ByteLevel" for step in steps)
            and not any(step.get("behavior") == "Removed" for step in steps)
            and not any(token["lstrip"] or token["rstrip"] for token in backend["added_tokens"])
        )
        # In a byte-level vocabulary, a character stands for a byte.
        return max(map(len, self._tokenizer.get_vocab()), default=1) if keeps_all else None


class GrowingIds:
    """Tokenises texts that extend each other, and reuses the ids up to the last position where a text can be cut.

    Args:
        cuts: cuts for the tokenizer.
    """

    def __init__(self, cuts: Cuts) -> None:
        self._cuts = cuts
        self._text = ""
        self._ids: list[int] = []

    def __call__(self, text: str) -> list[int]:
        rest = self._rest(text)
        return [*self._ids, *rest]

    @property
    def known(self) -> int:
        """Number of ids that are known for any text that continues after the last cut."""
        return len(self._ids)

    def count(self, text: str) -> int:
        """Return the number of ids of a text."""
        rest = self._rest(text)
        return len(self._ids) + len(rest)

    def _rest(self, text: str) -> list[int]:
        """Update the known ids for a text, and return its remaining ids."""
        if not text.startswith(self._text):
            self._text, self._ids = "", []
        known = len(self._text)
        last = self._cuts.last(text, known)
        if last > known:
            self._ids += self._split(text[known:last])
            self._text = text[:last]
        return self._split(text[last:])

    def _split(self, text: str) -> list[int]:
        return text_ids(self._cuts.tokenizer, text) if text else []


def _any_of(texts: list[str]) -> re.Pattern[str]:
    """Return a pattern that finds the first of several texts, and the longest of those that begin at the same position."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")
