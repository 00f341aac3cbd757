"""Supervised training on the real responses only, for baseline arms and for a start from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from ..config.iteration import SPINConfig
from ..files import Checksum, checksums_in, whole_folder
from ..models.adapters import Policy
from ..models.saving import hashing
from ..run.adapter_bases import name_base_absolutely
from .non_finite import ROW_NAMES, NonFiniteTrainer


def train_supervised(
    model: Policy,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    args: SPINConfig,
    callbacks: list[TrainerCallback],
) -> list[dict[str, float]]:
    """Train on the real responses: cross-entropy over their tokens, EOS included, prompts masked.

    Args:
        model: model, trained in place.
        tokenizer: tokenizer, used for padding.
        rows: prepared rows.
        args: Trainer's settings, including `label_smoothing_factor`; sequences longer than `max_length` are cut at the end.
        callbacks: callbacks of the trainer.

    Returns:
        The trainer's log.
    """

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        ids, labels = row["prompt_ids"] + row["real_ids"], [-100] * len(row["prompt_ids"]) + row["real_ids"]
        return {"input_ids": ids[: args.max_length], "labels": labels[: args.max_length], "key": row["key"]}

    padded = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [(example["key"],) for example in examples]
        batch = padded([{name: example[name] for name in ("input_ids", "labels")} for example in examples])
        return {**batch, ROW_NAMES: rows}

    trainer = NonFiniteTrainer(
        model=model,
        args=args,
        train_dataset=rows.map(
            encode,
            remove_columns=rows.column_names,
            load_from_cache_file=False,  # a damaged cache would be used for training
            desc="Preparing supervised rows",
        ),
        data_collator=collate,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.state.log_history


def save_model(model: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Checksum]:
    """Save a model and its tokenizer atomically; return the checksums of the files by name."""
    with whole_folder(folder) as unfinished, hashing() as taken:
        model.save_pretrained(str(unfinished))
        tokenizer.save_pretrained(unfinished)
        name_base_absolutely(unfinished)
        return checksums_in(unfinished, taken)
