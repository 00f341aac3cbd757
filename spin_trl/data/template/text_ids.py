"""Ids of long texts: those that the tokenizer makes, without work whose result nobody reads.

A line of a data file may be a whole book. To tokenise it is most of what preparing it takes, so a long text is tokenised
once, although it is needed with its prompt and without, and its tokens' places in the text are not looked for.
"""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

LONG = 50_000
"""Characters of a text that is long. Of shorter ones the tokenizer's own call takes no time that matters."""

_AROUND = ("Ab, c", "x\n\n", " é ")
"""What may stand around a token where it is tried whether a text can be cut before it."""


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> list[int]:
    """Ids of a text, as the tokenizer's own call makes them.

    Args:
        tokenizer: of the text.
        text: of any length.
        special: whether special tokens are put around it.
    """
    if len(text) < LONG or not _calls_backend(tokenizer):
        return list(tokenizer(text, add_special_tokens=special)["input_ids"])
    tokenizer("", add_special_tokens=special)  # sets up its backend as for any call: no padding, no truncation
    found = tokenizer.backend_tokenizer.encode_batch_fast([text], add_special_tokens=special)
    return list(found[0].ids)


def _calls_backend(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer's call does nothing to a text but hand it to the `tokenizers` library."""
    cls = type(tokenizer)
    return (
        isinstance(tokenizer, PreTrainedTokenizerFast)
        and cls.__call__ is PreTrainedTokenizerFast.__call__
        and cls._encode_plus is PreTrainedTokenizerFast._encode_plus
    )


class Cuts:
    """Where texts may be cut, so that the ids of both parts, one behind the other, are those of the text.

    The `tokenizers` library first takes the tokens that were added to a vocabulary out of a text, and then normalises and
    splits what is between them piece by piece. So a text may be cut before such a token where no other one reaches across
    that place. Each token is also tried, once.

    Args:
        tokenizer: of the texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values() if _calls_backend(tokenizer) else ()
        # Others are looked for later, in each piece.
        raw = [one for one in added if one.content and not one.normalized]
        if tokenizer.split_special_tokens or any(one.single_word for one in raw):
            raw = []  # special tokens are usual text, or a token is one only if none of its neighbours is a letter
        # One that takes the white space around it, or begins with some, does not end what is before it.
        exact = [one for one in raw if one.special and not (one.lstrip or one.rstrip or one.content[0].isspace())]
        self._exact, self._raw = (_any_of([one.content for one in tokens]) for tokens in (exact, raw))
        self._reach = max((len(one.content) for one in raw), default=0)
        self._tried: dict[str, bool] = {}

    def last(self, text: str, start: int) -> int:
        """The last place behind `start` where a text may be cut, or `start`."""
        found = [match for match in self._exact.finditer(text, start) if match.start() > start]
        return next((one.start() for one in reversed(found) if self._is_cut(text, one)), start)

    def _is_cut(self, text: str, match: re.Match[str]) -> bool:
        place = match.start()
        longest = self._raw.match(text, place)
        before = (self._raw.match(text, at) for at in range(max(place - self._reach + 1, 0), place))
        crossed = any(one is not None and one.end() > place for one in before)
        return longest is not None and longest[0] == match[0] and not crossed and self._ends(match[0])

    def _ends(self, token: str) -> bool:
        """Whether texts are split before a token as if nothing followed."""
        if token not in self._tried:
            self._tried[token] = all(
                text_ids(self.tokenizer, before + token + behind)
                == text_ids(self.tokenizer, before) + text_ids(self.tokenizer, token + behind)
                for before in _AROUND
                for behind in _AROUND
            )
        return self._tried[token]


class GrowingIds:
    """Ids of texts, each of which begins as the one before, up to where that can be cut.

    Args:
        cuts: of the tokenizer.
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
        """How many ids are known of a text that goes on behind where the last one could be cut."""
        return len(self._ids)

    def count(self, text: str) -> int:
        """How many ids a text has."""
        rest = self._rest(text)
        return len(self._ids) + len(rest)

    def _rest(self, text: str) -> list[int]:
        """Ids behind those that are known to be the text's, now that it has been seen."""
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
    """Finds the first of several texts, and of those that begin at one place the longest."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")
