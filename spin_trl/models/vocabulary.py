"""Check that a model has an embedding for every token that it will see."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..counts import counted
from ..errors import DataError
from .adapters import base_of, is_adapter, saved_embeddings
from .loading import LoadSettings, model_config_of

NAMED = 5
"""Most tokens that a message names."""

LARGEST_ID = 2**24
"""Token ids beyond this are taken for damage: the largest vocabularies have fewer than a million tokens."""

LAYERS = {"input": "embed_tokens", "output": "lm_head"}
"""Usual names of embeddings. Those of an adapter are found by name when no model is loaded."""


def check_ids(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise if a tokenizer has an id that no vocabulary is large enough for, as in a damaged `tokenizer.json`.

    The `tokenizers` library visits every number up to the largest id when it saves or describes a tokenizer. With ids near
    2^32 it runs out of memory, which ends the process without an exception.

    Args:
        tokenizer: tokenizer to check.
        name: its folder or Hub name, for the message.

    Raises:
        DataError: if there is one; the message names the token and its id.
    """
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", 0))
    if largest > LARGEST_ID:
        raise DataError(
            f"The tokenizer of {name!r} has the id {largest} for the token {token!r:.60}, but no vocabulary is that large. "
            "Restore the tokenizer's files."
        )


def check_tokens(
    tokenizer: PreTrainedTokenizerBase, num_embeddings: int | None, model: str, datasets: Iterable[Dataset]
) -> None:
    """Raise unless a model has embeddings for the pad token and all tokens of prepared rows.

    Tokens that occur in no row need none: some models' tokenizers have tokens of another model in their family.

    Args:
        tokenizer: tokenizer of the rows.
        num_embeddings: number of rows in the model's input embeddings, or None if it is not known.
        model: what to call the model in the message.
        datasets: rows with `prompt_ids` and `real_ids`.

    Raises:
        DataError: if embeddings are missing; the message gives the tokens, their ids, a row with each, and both sizes.
    """
    largest = max([len(tokenizer) - 1, *tokenizer.added_tokens_decoder])
    if num_embeddings is None or largest < num_embeddings:
        return
    rows_with: Counter[int] = Counter()
    first: dict[int, str] = {}
    for dataset in datasets:
        for row in dataset.select_columns(["prompt_ids", "real_ids"]):
            for token in {token for ids in row.values() for token in ids if token >= num_embeddings}:
                rows_with[token] += 1
                first.setdefault(token, str(tokenizer.decode([*row["prompt_ids"], *row["real_ids"]]))[:60])
    found = {one: f"in {counted(count, 'row')}, the first being {first[one]!r}" for one, count in rows_with.items()}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= num_embeddings:
        found.setdefault(tokenizer.pad_token_id, "which pads rows")
    if not found:
        return
    text_of = tokenizer.convert_ids_to_tokens
    named = [f"{text_of(token)!r} (id {token}, {where})" for token, where in sorted(found.items())[:NAMED]]
    more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
    advice = "Resize the model (`model.resize_token_embeddings(len(tokenizer))`) and save it, or use its own tokenizer"
    if set(found) == {tokenizer.pad_token_id}:
        advice += ", or pad with EOS (`tokenizer.pad_token = tokenizer.eos_token`, saved with the tokenizer)"
    raise DataError(
        f"The tokenizer has {largest + 1} tokens, but {model} has embeddings for {num_embeddings} (ids 0 to "
        f"{num_embeddings - 1}). There is none for {', '.join(named)}{more}. {advice}."
    )


def embeddings_of(model: Any) -> int | None:
    """Return the number of rows in a model's input embeddings; None if they are sharded, or it has none."""
    weight = getattr(model.get_input_embeddings(), "weight", None)
    return int(weight.shape[0]) if weight is not None and weight.dim() == 2 and weight.numel() else None


def load_embeddings_size(path: str | os.PathLike[str], args: LoadSettings) -> int | None:
    """Return the same for a model that is not loaded, from its configuration or from an adapter's saved embeddings.

    Args:
        path: local folder or Hub name.
        args: settings; the revision in `model_init_kwargs` is used.

    Returns:
        The number, or None if it can't be determined.
    """
    if is_adapter(path):
        with contextlib.suppress(OSError):
            if saved := saved_embeddings(path, LAYERS):
                return max(saved.values())
        path = base_of(path)
    config = model_config_of(str(path), args)
    return None if config is None else getattr(config.get_text_config(), "vocab_size", None)
