"""Lengths of the preference pairs for DPO on top, counted by DPOTrainer's own function on a sample."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import Dataset

from ..config.dpo_on_top import dpo_config
from ..config.recipe import Recipe
from ..data.preferences import check_pairs, read_pairs
from ..data.template.pair_template import PairTemplate
from ..training.pair_ends import difference_in_ends, tokens_of_dpo
from ..training.pair_lengths import truncated_lengths

SAMPLED_PAIRS = 100
"""Number of pairs whose tokens are counted."""


@dataclass(frozen=True)
class PreferenceLengths:
    """The number of preference pairs, and their mean lengths.

    Attributes:
        num_pairs: number of pairs that DPO trains on.
        pair: mean number of tokens of a prompt with both of its responses.
        response: mean number of tokens of a response.
        ends: sentence on how DPOTrainer's tokens differ from the run's, or None.
        longest: numbers of tokens of the prompt, the chosen and the rejected response of the longest pair of the sample.
    """

    num_pairs: int
    pair: float
    response: float
    ends: str | None = None
    longest: tuple[int, int, int] = (0, 0, 0)


def preference_lengths(recipe: Recipe, pairs: Dataset, template: PairTemplate) -> PreferenceLengths:
    """Count the tokens of a sample of the pairs.

    Args:
        recipe: the recipe.
        pairs: preference pairs.
        template: template of the run.

    Raises:
        DataError: if the first pairs can't be used.
    """
    total = min(len(pairs), recipe.play.most_pairs or len(pairs))
    rows = read_pairs(check_pairs(pairs).select(range(min(len(pairs), SAMPLED_PAIRS)))).rows
    args = dpo_config(recipe.args, recipe.play)
    found = tokens_of_dpo(rows, template.tokenizer)
    whole = zip(*(map(len, found[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected")), strict=True)
    parts = [truncated_lengths(lengths, args.max_length, args.truncation_mode) for lengths in whole]
    response = sum(chosen + rejected for _, chosen, rejected in parts) / (2 * len(parts))
    pair = sum(map(sum, parts)) / len(parts)
    ends = difference_in_ends(rows, template.tokenizer, template)
    return PreferenceLengths(total, pair, response, ends, max(parts, key=sum))
