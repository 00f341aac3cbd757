"""A trainer's own generations: before its first step the policy still is the opponent, so it answers the prompts itself."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..config.iteration import SPINConfig
from ..config.paths import output_folder
from ..data.template.pair_template import PairTemplate
from ..errors import GenerationsError
from ..files import DEFINITION, definition_of, json_digest
from ..generation.answer import Asked, answer
from ..generation.engine import Sampling
from ..generation.store import STORE_MANIFEST, GenerationStore
from . import opponent


def answer_in_training(
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
    folder = output_folder(args) / "generations"
    definitions = (1, DEFINITION) if _has_store_of(folder, name, 1) else (DEFINITION,)
    for definition in definitions:  # what version 0.1.0 left is found by its own name, too
        asked = Asked.of(model, rows, template, definition, is_new=adapter_is_new)
        named = {f"{of}_digest": value for of, value in dataclasses.asdict(asked).items()}
        store = GenerationStore(folder / f"{name}-{json_digest([named, dataclasses.asdict(sampling)])}")
        if store.folder.exists():
            break
    with opponent.in_place_of_the_policy(model) if as_opponent else contextlib.nullcontext():
        answer(
            model.to(accelerator.device),
            rows,
            store,
            sampling,
            asked,
            engine=args.engine,
            eos_token_ids=template.eos_ids,
            pad_token_id=tokenizer.pad_token_id,
            accelerator=accelerator,
            iteration=0,
            disable_progress=bool(args.disable_tqdm),
            description=f"Generating ({name})",
        )
    return store


def _has_store_of(folder: Path, name: str, definition: int) -> bool:
    """Whether answers to a dataset are there whose model was named by a definition of digests."""
    for manifest in folder.glob(f"{name}-*/{STORE_MANIFEST}"):
        try:
            if definition_of(GenerationStore(manifest.parent).manifest()["model"]) == definition:
                return True
        except GenerationsError:
            continue
    return False
