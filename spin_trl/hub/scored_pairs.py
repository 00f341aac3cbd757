"""Preference pairs made of a model's own samples, as a dataset that TRL's DPOTrainer accepts directly, and its card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Value
from huggingface_hub import DatasetCardData

from ..generation.generations import Generations
from .dataset import Decodes, columns_of_pair
from .dataset_card import FORMS_IN_WORDS
from .facts import PLACEHOLDER, card_text

OF_SCORED_PAIRS = {
    "chosen_score": Value("float64"),
    "rejected_score": Value("float64"),
    "key": Value("string"),
    "chosen_sample": Value("int32"),
    "rejected_sample": Value("int32"),
    "chosen_finish_reason": Value("string"),
    "rejected_finish_reason": Value("string"),
}
"""Columns of scored pairs besides `prompt`, `chosen` and `rejected`."""


@dataclass(frozen=True)
class ScoredPairs:
    """The facts about a dataset of scored pairs, for its card and its manifest.

    Attributes:
        run: name of the run.
        stage: stage of the run whose model was sampled.
        scorer: names of the scorers.
        score: the one of the scorer's numbers that ranks the samples; None if it returns a single number.
        form: form of the pairs, from [`hub.dataset.form_of`].
        prompts: number of prompts that were answered.
        pairs: number of pairs.
        without_pair: number of prompts without a pair, by reason ([`evaluation.ranking`]).
        mean_score: mean score of all samples that have one; None if none has.
        truncated: number of pairs whose `chosen` response was truncated at the length limit, and whose `rejected` one was.
        repeated: number of rows that were left out because an earlier row has the same prompt.
        sampling: settings of sampling, and the engine that sampled.
    """

    run: str
    stage: str
    scorer: list[str]
    score: str | None
    form: str
    prompts: int
    pairs: int
    without_pair: dict[str, int]
    mean_score: float | None
    truncated: dict[str, int]
    repeated: int
    sampling: dict[str, Any]


def scored_pair(
    row: Mapping[str, Any],
    samples: Generations,
    scores: tuple[float, float],
    numbers: tuple[int, int],
    tokenizer: Decodes,
    form: str,
) -> dict[str, Any]:
    """Return a pair of two samples as a row of the dataset.

    Args:
        row: prepared row of the prompt.
        samples: samples of all prompts, as iteration 0.
        scores: scores of the chosen and the rejected sample.
        numbers: their numbers.
        tokenizer: tokenizer of the run.
        form: form of the pair, from [`hub.dataset.form_of`].
    """
    chosen, rejected = ((row["key"], 0, number) for number in numbers)
    return {
        **columns_of_pair(row, samples[rejected], tokenizer, form, samples[chosen]),
        **dict(zip(("chosen_score", "rejected_score"), scores, strict=True)),
        "key": row["key"],
        **dict(zip(("chosen_sample", "rejected_sample"), numbers, strict=True)),
        "chosen_finish_reason": samples.finish_reasons[chosen],
        "rejected_finish_reason": samples.finish_reasons[rejected],
    }


def mean_of_scores(scores: list[float]) -> float | None:
    """Return the mean of the finite scores; None if there are none."""
    finite = [score for score in scores if math.isfinite(score)]
    return math.fsum(finite) / len(finite) if finite else None


def scored_pairs_card(found: ScoredPairs) -> str:
    """Return the card of a dataset of scored pairs.

    It names no data files (`configs`): then `load_dataset` would return the cached pairs of another folder of this name.
    """
    data = DatasetCardData(
        annotations_creators=["machine-generated"],
        language_creators=["machine-generated"],
        pretty_name=f"Scored samples of {found.run}",
        task_categories=["text-generation"],
        tags=["synthetic", "preference", "trl", "dpo"],
    )
    form = FORMS_IN_WORDS[found.form]
    return card_text("scored_pairs_card.md.j2", data, found=found, form=form, placeholder=PLACEHOLDER)
