"""What decides the ids that a tokenizer makes of a text, as a value that can be hashed.

Neither where the tokenizer lies, nor when it was loaded, nor how it would pad or truncate a batch is part of it.
"""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...files import json_digest

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")
_WITHOUT_EFFECT = ("version", "padding", "truncation", "decoder")
_PROBES = ("Ab 12,  é\n\n\tWörld's (x)", " ﬁ Ⅳ ①  Ÿ ", "don't I'LL", "日本語 🚤 ไทย", "x = [1,2];\r\n\tend")
"""Texts that tell how a tokenizer normalises and splits, where only what it does can be seen."""


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What decides the ids of a text: normaliser, split rules, vocabulary, added tokens, special tokens around a text.

    Args:
        tokenizer: of either kind. One of the `tokenizers` library is described by its parts, another one by its vocabulary
            and by what it makes of a few texts.
    """
    special = {name: str(token) for name in _SPECIAL_TOKENS if (token := getattr(tokenizer, name, None)) is not None}
    # `template_kwargs` of a chat template hold these tokens, too.
    identity: dict[str, Any] = {"special": special}
    identity["splits_special"] = bool(getattr(tokenizer, "split_special_tokens", 0))
    texts = [*_PROBES, *(f"a{token} b" for token in special.values())]
    identity["texts"] = [_ids(tokenizer, text, with_special) for text in texts for with_special in (True, False)]
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


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, with_special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=with_special)["input_ids"])
