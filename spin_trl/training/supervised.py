"""Supervised training on the real responses alone: what a baseline arm and a start from scratch do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ..checksums import Checksum, checksums_in, hashing
from ..files import whole_folder
from ..models.adapters import Policy


def train_supervised(
    model: Policy,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    args: TrainingArguments,
    max_length: int | None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Policy:
    """Train on the real responses: cross-entropy over their tokens, EOS included, prompts masked.

    Args:
        model: trained in place.
        tokenizer: pads.
        rows: prepared rows.
        args: Trainer's, `label_smoothing_factor` among them.
        max_length: longer sequences are cut at their end.
        callbacks: of the trainer.
    """

    def encode(row: dict[str, Any]) -> dict[str, list[int]]:
        ids = row["prompt_ids"] + row["real_ids"]
        return {
            "input_ids": ids[:max_length],
            "labels": ([-100] * len(row["prompt_ids"]) + row["real_ids"])[:max_length],
        }

    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=rows.map(encode, remove_columns=rows.column_names, desc="Preparing supervised rows"),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model


def save_model(model: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Checksum]:
    """Save a model and its tokenizer, whole or not at all; returns the checksums of the files, by name."""
    with whole_folder(folder) as unfinished, hashing() as taken:
        model.save_pretrained(str(unfinished))
        tokenizer.save_pretrained(unfinished)
        return checksums_in(unfinished, taken)
