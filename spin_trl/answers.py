"""A trainer's own generations: before its first step the policy still is the opponent, so it answers the prompts itself."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from . import opponent
from .config import SPINConfig
from .data.keys import hash_of, rows_digest
from .data.template import PairTemplate
from .generation.engine import Sampling
from .generation.produce import generate
from .generation.store import GenerationStore
from .generation.transformers import TransformersEngine
from .models import digest


def answer(
    model: Any,
    rows: Dataset,
    name: str,
    *,
    args: SPINConfig,
    template: PairTemplate,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    adapter_is_new: bool,
    as_opponent: bool,
) -> GenerationStore:
    """Let a model answer the prompts of `rows`, into a folder under `args.output_dir`.

    Args:
        model: whole, not wrapped.
        rows: prepared rows.
        name: of the dataset.
        args: how to sample.
        template: of the rows.
        tokenizer: whose pad token fills up rows.
        accelerator: of the trainer.
        adapter_is_new: whether the model's adapter has not been trained, so that the opponent is the base model.
        as_opponent: whether an adapter gives way to the frozen one, or to the base model.

    Returns:
        The store. What an interrupted call left is found by a name that is its own for every model and setting.
    """
    sampling = Sampling.from_args(args)
    digests: dict[str, Any] = {
        "dataset_digest": rows_digest(rows),
        "template_digest": template.digest(),
        "model_digest": digest(model, adapter_is_new=adapter_is_new),
    }
    folder = f"{name}-{hash_of([digests, dataclasses.asdict(sampling)])}"
    store = GenerationStore(Path(args.output_dir) / "generations" / folder)
    engine = TransformersEngine(
        model.to(accelerator.device), template.eos_ids, tokenizer.pad_token_id, autocast=accelerator.autocast
    )
    with opponent.in_place_of_the_policy(model) if as_opponent else contextlib.nullcontext():
        generate(
            engine,
            rows,
            store,
            sampling,
            iteration=0,
            disable_progress=args.disable_tqdm,
            description=f"Generating ({name})",
            **digests,
        )
    return store
