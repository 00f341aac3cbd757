"""Collect everything that determines the ids that a tokenizer produces, as a value that can be hashed.

The tokenizer's path, the time when it was loaded, and how it would pad or truncate a batch are not included.
"""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...files import json_digest
from .text_ids import text_ids

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")
_WITHOUT_EFFECT = ("version", "padding", "truncation", "decoder")
_PROBES = ("Ab 12,  é\n\n\tWörld's (x)", " ﬁ Ⅳ ①  Ÿ ", "don't I'LL", "日本語 🚤 ไทย", "x = [1,2];\r\n\tend")
"""Texts that reveal how a tokenizer normalises and splits, for tokenizers whose parts are not accessible."""


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return everything that determines a text's ids: normaliser, split rules, vocabulary, added and special tokens.

    Args:
        tokenizer: tokenizer of either kind. Tokenizers of the `tokenizers` library are described by their parts, others by
            their vocabulary. All are also described by the ids of a few texts.
    """
    special = {name: str(token) for name in _SPECIAL_TOKENS if (token := getattr(tokenizer, name, None)) is not None}
    # Chat templates receive these tokens as variables, too.
    identity: dict[str, Any] = {"special": special}
    identity["splits_special"] = bool(getattr(tokenizer, "split_special_tokens", 0))
    texts = [*_PROBES, *(f"a{token} b" for token in special.values())]
    identity["texts"] = [
        text_ids(tokenizer, text, special=with_special) for text in texts for with_special in (True, False)
    ]
    if tokenizer.is_fast:
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        telling = {name: part for name, part in parts.items() if name not in _WITHOUT_EFFECT}
        identity["parts"] = json_digest(telling, 64)
    else:
        identity["vocabulary"] = json_digest(sorted(tokenizer.get_vocab().items()), 64)
        identity["added"] = [
            [token, one.content, one.special, one.normalized, one.lstrip, one.rstrip, one.single_word]
            for token, one in sorted(tokenizer.added_tokens_decoder.items())
        ]
    return identity
