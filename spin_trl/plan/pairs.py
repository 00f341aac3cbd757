"""Lengths of the preference pairs for DPO on top, counted by DPOTrainer's own function on a sample."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import Dataset

from ..config.recipe import Recipe
from ..data.preferences import check_pairs, read_pairs
from ..data.template.pair_template import PairTemplate
from ..training.pair_ends import difference_in_ends, tokens_of_dpo

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
    """

    num_pairs: int
    pair: float
    response: float
    ends: str | None = None


def preference_lengths(recipe: Recipe, pairs: Dataset, template: PairTemplate) -> PreferenceLengths:
    """Count the tokens of a sample of the pairs.

    Args:
        recipe: the recipe.
        pairs: preference pairs.
        template: template of the run.

    Raises:
        DataError: if the first pairs can't be used.
    """
    total = min(len(pairs), 8 if recipe.play.smoke else recipe.play.dpo_max or len(pairs))
    rows = read_pairs(check_pairs(pairs).select(range(min(len(pairs), SAMPLED_PAIRS)))).rows
    most = recipe.args.max_length
    found = tokens_of_dpo(rows, template.tokenizer)
    responses = [len(ids) for ids in (*found["chosen_ids"], *found["rejected_ids"])]
    prompts = sum(map(len, found["prompt_ids"])) / len(rows)
    response = sum(responses) / len(responses)
    if most is not None:
        prompts = min(prompts, most)
        response = min(response, most - prompts)
    ends = difference_in_ends(rows, template.tokenizer, template)
    return PreferenceLengths(total, prompts + 2 * response, response, ends)
