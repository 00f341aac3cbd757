"""What `SelfPlay`'s arguments mean: which rows are used, which scorer, and which adapter SFT first trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from ..config.loop import SMOKE_ROWS, SelfPlayConfig
from ..config.traits import SFT_FIRST
from ..errors import RecipeError
from ..evaluation.scoring import Permission, Scorer
from ..run.journal import RETENTION
from ..run.run import scorer_named
from ..training.arguments import check_kinds, kind_of

DRAWING_SEED = 0
"""Seed for drawing the rows of the retention set and the pairs of DPO on top: the same for every run, so that several runs
are comparable."""


def scorer_from(scorer: Any, play: SelfPlayConfig, permission: Permission | None = None) -> Scorer | None:
    """Return the scorer that was passed, either as a function or by the names used in recipes."""
    names = [scorer] if isinstance(scorer, str) else scorer
    if not isinstance(names, Sequence):
        check_kinds(scorer=scorer)
        return scorer
    unnamed = next((one for one in names if not isinstance(one, str)), None)
    if unnamed is not None or not names:
        raise RecipeError(f"`scorer` is a list with {kind_of(unnamed)}; expected names of scorers, or one function.")
    return scorer_named(names, play, permission)


def sft_adapter(play: SelfPlayConfig, peft_config: Any, sft_peft_config: Any) -> Any:
    """Return the PEFT configuration of SFT first: its own or that of self-play; None for full fine-tuning."""
    if play.start != SFT_FIRST or play.sft_use_peft is False:
        return None
    found = sft_peft_config or peft_config
    if play.sft_use_peft and found is None:
        raise RecipeError("`sft_use_peft` is true, but there is no adapter's configuration. Pass `sft_peft_config`.")
    return found


def measured_rows_of(dataset: Dataset, name: str, play: SelfPlayConfig) -> Dataset:
    """Return the rows of the test or the retention set that are measured."""
    if play.smoke:
        dataset = first_rows(dataset, SMOKE_ROWS)
    return drawn_rows(dataset, play.retain_max) if name == RETENTION else dataset


def drawn_rows(dataset: Dataset, most: int | None) -> Dataset:
    """Return at most this many rows, drawn with a fixed seed, in their order; None: all of them."""
    if most is None or len(dataset) <= most:
        return dataset
    drawn = np.random.default_rng(DRAWING_SEED).permutation(len(dataset))[:most]
    return dataset.select(np.sort(drawn))


def first_rows(dataset: Dataset, count: int) -> Dataset:
    return dataset.select(range(min(count, len(dataset))))
