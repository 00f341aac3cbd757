"""Notes on what a tokenizer changes in a text: Unicode forms, letter case, white space, and characters without a token."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase

from .. import notes
from .text_ids import text_ids

# Letters, variants of letters and white space that tokenizers may change. A tokenizer that keeps them all keeps every text.
_SAMPLE = (
    " Ab  cD\n\n\tÉé e\u0301 ﬁ Ⅳ ① ½ ẞß İı Ωσς \u00a0\u2009\u200b\u200d\ufeff «“”» … don't I'LL 12,345.60 "
    "x = [1, 2];\r\n    end ▁ Ġ 日本語 한국어 ไทย עברית العربية हिन्दी 🚤👩\u200d👧 "
    "\u0000\u0007\u001b\ue000\U0010fffd \U00020000 "
)


class Changes:
    """Finds what a tokenizer changes in texts.

    Args:
        tokenizer: the tokenizer.
        prefix: ids that it puts before every text, such as BOS.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prefix: list[int]) -> None:
        self._tokenizer, self._prefix = tokenizer, prefix
        # A tokenizer that preserves this sample, apart from its normaliser, preserves all texts: rows need not be decoded.
        ids = text_ids(tokenizer, _SAMPLE)
        self._is_lossless = tokenizer.unk_token_id not in ids and text_of_ids(tokenizer, ids) == self._normalised(
            _SAMPLE
        )

    def notes_on(self, ids: list[int], text: str, end: int) -> frozenset[str]:
        """Return notes on how the tokenizer has changed a text.

        Args:
            ids: ids of a prompt and its response, with EOS.
            text: text that the ids were made from.
            end: end of the response in the text.
        """
        if self._is_lossless:
            return frozenset() if self._normalised(text) == text else frozenset({notes.NORMALISED})
        has_prefix = ids[: len(self._prefix)] == self._prefix
        if has_prefix and not text.lstrip().startswith(text_of_ids(self._tokenizer, self._prefix).strip()):
            ids = ids[len(self._prefix) :]  # BOS that was added by the tokenizer
        kept, last = text_of_ids(self._tokenizer, ids[:-1]), text_of_ids(self._tokenizer, ids[-1:])
        if text[:end].rstrip().endswith(last):
            end = len(text[:end].rstrip()) - len(last)  # the response has its own EOS
        is_same = text.startswith(kept) and not text[len(kept) : end].strip()
        found = set() if is_same else self._differences(text, kept, end)
        unknown = self._tokenizer.unk_token_id
        if unknown in ids[:-1] and ids[:-1].count(unknown) > text.count(str(self._tokenizer.unk_token)):
            found.add(notes.UNKNOWN_IN_TEXT)
        return frozenset(found)

    def _differences(self, text: str, kept: str, end: int) -> set[str]:
        """Return notes on how the tokenizer changed a text that differs from its decoded ids."""
        whole, letters = _letters(self._normalised(text)), _letters(self._normalised(kept))
        changed = set()
        if whole != _letters(text) or _spaces(text[:end]) > _spaces(kept):
            changed.add(notes.NORMALISED)
        if not whole.startswith(letters) or len(letters) < len(_letters(self._normalised(text[:end]))):
            changed.add(notes.UNKNOWN_IN_TEXT)
        return changed

    def _normalised(self, text: str) -> str:
        normalizer = self._tokenizer.backend_tokenizer.normalizer if self._tokenizer.is_fast else None
        return text if normalizer is None else str(normalizer.normalize_str(text))


def text_of_ids(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Return the text of ids, with special tokens and white space as they are."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _letters(text: str) -> str:
    """Remove white space from a text."""
    return re.sub(r"[\s▁]+", "", text)


def _spaces(text: str) -> int:
    """Count line breaks, tabs, and spaces after spaces, which a tokenizer that splits at white space loses."""
    return len(re.findall(r"[\n\t]|(?<= ) ", text.strip()))
