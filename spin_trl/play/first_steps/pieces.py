"""Splits a prompt and a response into pieces by where they come from: the row, the chat template, or special tokens."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Piece:
    """A piece of a row, as the model sees it.

    Attributes:
        text: text of its tokens.
        is_prompt: whether it belongs to the prompt.
        is_added: whether the chat template or the tokenizer added it, so it is not in the row.
        is_special: whether it is a special token.
        is_cut: whether it exceeds `max_length` and is therefore not trained on.
    """

    text: str
    is_prompt: bool
    is_added: bool = False
    is_special: bool = False
    is_cut: bool = False


@dataclass(frozen=True)
class Limit:
    """Where a row is truncated.

    Attributes:
        most: maximum number of tokens of prompt and response, or None.
        keeps_start: whether the end is truncated, rather than the beginning.
    """

    most: int | None
    keeps_start: bool = True

    def beyond(self, count: int) -> int:
        """Return how many of `count` tokens are truncated."""
        return 0 if self.most is None else max(count - self.most, 0)


def in_pieces(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    limit: Limit,
    text: str,
    own: Sequence[tuple[int, int]],
) -> tuple[list[Piece], bool]:
    """Split a prompt and a response between them, at special tokens, where their own texts begin and end, and where they are
    truncated.

    Args:
        tokenizer: the tokenizer.
        prompt_ids, response_ids: tokens of prompt and response.
        limit: where they are truncated.
        text: the text that was tokenised.
        own: beginnings and ends, in that text, of what the row itself says; all else was added. Sorted and disjoint.

    Returns:
        The pieces, in order, and whether it is known which of them come from the row itself.
    """
    ids = [*prompt_ids, *response_ids]
    whole = decoded_text(tokenizer, ids)

    def place_of(count: int) -> int:
        """Return where the first `count` tokens end in the text. A token decoded alone may give other text."""
        return min(len(decoded_text(tokenizer, ids[:count])), len(whole))

    beyond = limit.beyond(len(ids))
    cut = (place_of(len(ids) - beyond), len(whole)) if limit.keeps_start else (0, place_of(beyond))
    special = [
        (place_of(index), place_of(index + 1))
        for index, token in enumerate(ids)
        if token in tokenizer.added_tokens_decoder and tokenizer.added_tokens_decoder[token].special
    ]
    last = max((stop for _, stop in own), default=0)
    offset = whole.find(text[:last])
    spans = [(start + offset, stop + offset) for start, stop in own] if offset >= 0 else [(0, len(whole))]
    border = place_of(len(prompt_ids))
    edges = sorted({0, border, len(whole), *(edge for span in (*spans, *special, cut) for edge in span)})
    pieces = []
    for start, stop in itertools.pairwise(edges):
        is_special = _within(special, start)
        pieces.append(
            Piece(
                text=whole[start:stop],
                is_prompt=start < border,
                is_added=not _within(spans, start) or (is_special and offset < 0),
                is_special=is_special,
                is_cut=bool(beyond) and cut[0] <= start < cut[1],
            )
        )
    return pieces, offset >= 0


def _within(spans: Sequence[tuple[int, int]], place: int) -> bool:
    """Return whether one of the sorted, disjoint spans contains a position."""
    index = bisect.bisect_right(spans, (place, math.inf)) - 1
    return index >= 0 and spans[index][0] <= place < spans[index][1]


def decoded_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of tokens, with special tokens, as it is."""
    found: Any = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(found)
