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
    most = recipe.args.max_length
    found = tokens_of_dpo(rows, template.tokenizer)
    responses = [len(ids) for ids in (*found["chosen_ids"], *found["rejected_ids"])]
    prompts = sum(map(len, found["prompt_ids"])) / len(rows)
    response = sum(responses) / len(responses)
    if most is not None:
        prompts = min(prompts, most)
        response = min(response, most - prompts)
    ends = difference_in_ends(rows, template.tokenizer, template)
    parts = zip(*(found[f"{part}_ids"] for part in ("prompt", "chosen", "rejected")), strict=True)
    longest = max((_cut(most, *map(len, pair)) for pair in parts), key=sum)
    return PreferenceLengths(total, prompts + 2 * response, response, ends, longest)


def _cut(most: int | None, prompt: int, chosen: int, rejected: int) -> tuple[int, int, int]:
    """Return the numbers of tokens of a pair's parts after its rows are truncated to `most` tokens."""
    if most is None:
        return prompt, chosen, rejected
    prompt = min(prompt, most)
    return prompt, min(chosen, most - prompt), min(rejected, most - prompt)
