"""Compares DPOTrainer's tokens of preference pairs with the tokens that a run would make of the same text.

DPOTrainer renders a response with the chat template and keeps what the template writes after the turn's end, such as a
newline. A run's own responses end at the EOS that ends the turn, where a generation ends.
"""

from __future__ import annotations

import logging
import types
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import DPOTrainer

from ..data.arrow import rows_of
from ..data.preferences import explicit
from ..data.prepare import encode_rows
from ..data.template.pair_template import PairTemplate
from ..errors import SpinError

logger = logging.getLogger(__name__)

COMPARED_PAIRS = 3
"""Number of pairs that are tokenised both ways."""


def difference_in_ends(rows: Dataset, tokenizer: PreTrainedTokenizerBase, template: PairTemplate) -> str | None:
    """Return a sentence on how DPOTrainer's tokens of pairs differ from the run's; None if they don't.

    Args:
        rows: preference pairs.
        tokenizer: tokenizer of the run.
        template: template of the run.
    """
    few = rows.select(range(min(COMPARED_PAIRS, len(rows))))
    found = tokens_of_dpo(few, tokenizer)
    by_dpo = [prompt + chosen for prompt, chosen in zip(found["prompt_ids"], found["chosen_ids"], strict=True)]
    for number, (pair, theirs) in enumerate(zip(rows_of(few), by_dpo, strict=True)):
        ours = _tokens_of_run(pair, template)
        if ours is None or ours == theirs:
            continue
        shared = next(
            (place for place, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None
        )
        at = min(len(ours), len(theirs)) if shared is None else shared
        end, own_end = (str(tokenizer.decode(ids[at:])) for ids in (theirs, ours))
        if shared is None:  # one of them goes on where the other ends
            more, with_it, without = (
                (end, "DPOTrainer's", "self-play's") if end else (own_end, "self-play's", "DPOTrainer's")
            )
            return (
                f"DPOTrainer ends responses differently from self-play: {with_it} tokens end with {more!r}, which "
                f"{without} don't have (first in pair {number})."
            )
        return (
            f"DPOTrainer's tokens of a pair differ from self-play's: {end[:40]!r} instead of {own_end[:40]!r} (first in "
            f"pair {number}, from token {at})."
        )
    return None


def tokens_of_dpo(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[list[int]]]:
    """Return the tokens of the pairs by DPOTrainer's own function: `prompt_ids`, `chosen_ids` and `rejected_ids`."""
    stand_in: Any = types.SimpleNamespace(_tokenizer=tokenizer)
    args: Any = types.SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    found = DPOTrainer._prepare_dataset(stand_in, rows, tokenizer, args, "pairs")
    return {name: list(found[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")}


def _tokens_of_run(pair: dict[str, Any], template: PairTemplate) -> list[int] | None:
    """Return the tokens that the run would make of a pair's prompt and chosen response; None if it would refuse them."""
    found = explicit(pair)
    row: dict[str, Any] = {"prompt": found["prompt"], "completion": found["chosen"]}
    row |= {name: pair[name] for name in ("tools", "chat_template_kwargs") if pair.get(name)}
    try:
        encoded = next(encode_rows(Dataset.from_list([row]), template).responses())
    except SpinError as error:
        logger.debug("The run's template can't be compared with DPOTrainer's: %s", error)
        return None
    return encoded.prompt_ids + encoded.real_ids if encoded.is_kept else None
