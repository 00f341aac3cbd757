"""Supervised training on the real responses only, with TRL's SFTTrainer: SFT first, baseline arms, and a start from scratch.

The trainer gets the run's prepared rows, so that prompts, EOS and cuts are the same tokens as in self-play.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ..config.paths import output_folder
from ..config.sft import NLL, SupervisedConfig
from ..config.steps import nearest_step
from ..files import Checksum, checksums_in, whole_folder
from ..models.adapters import Policy
from ..models.saving import hashing
from ..run import checkpoint
from ..run.adapter_bases import name_base_absolutely
from .non_finite import ROW_NAMES, NonFiniteTrainer
from .whole_checkpoints import WholeCheckpointsTrainer, newest_checkpoint

logger = logging.getLogger(__name__)


def train_supervised(
    model: Policy,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    args: SupervisedConfig,
    callbacks: list[TrainerCallback],
    held_out: Dataset | None = None,
    patience: int | None = None,
    epochs: float | None = None,
) -> SupervisedTrainer:
    """Train on the real responses: cross-entropy over their tokens, EOS included, prompts masked.

    Training resumes from its newest intact checkpoint in `args.output_dir`, if there is one.

    Args:
        model: model, trained in place. TRL's SFTTrainer replaces its forward, so load the saved model to use it further.
        tokenizer: tokenizer, used for padding.
        rows: prepared rows.
        args: settings; sequences longer than `max_length` are cut on the side that `truncation_mode` says.
        callbacks: callbacks of the trainer.
        held_out: prepared rows to measure the NLL on, if `eval_strategy` says so.
        patience: number of measurements in a row without a lower NLL after which training stops; None: it never stops early.
        epochs: number of epochs to train for, to the nearest gradient step; None: as the settings say.

    Returns:
        The trainer, whose model is the best point by NLL if `load_best_model_at_end` is true, else the last one.
    """
    callbacks = [*callbacks, _BestCheckpointHere()]
    if patience is not None and held_out is not None:
        callbacks.append(EarlyStoppingCallback(patience))
    with _without_caches():
        trainer = SupervisedTrainer(
            model=model,
            args=args,
            train_dataset=_as_sft_rows(rows),
            eval_dataset=None if held_out is None else _as_sft_rows(held_out),
            processing_class=tokenizer,
            data_collator=_Collator(tokenizer.pad_token_id, padding_free=args.packing),
            callbacks=callbacks,
        )
    trainer.remove_callback(PrinterCallback)
    if epochs is not None:
        trainer.args.max_steps = nearest_step(args, len(cast(Dataset, trainer.train_dataset)), args.world_size, epochs)
    found = _resumable(args)
    trainer.train(resume_from_checkpoint=None if found is None else str(found))
    return trainer


class SupervisedTrainer(NonFiniteTrainer, WholeCheckpointsTrainer, SFTTrainer):
    """TRL's SFTTrainer with `on_nan`, whose checkpoints have a manifest, and which measures the NLL per token."""

    _nll: torch.Tensor
    """Sum of the NLL over a measurement's tokens, and their number, shape (2,)."""

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as Trainer does, and add the NLL per token: Trainer's loss is a mean over batches of different sizes."""
        self._nll = torch.zeros(2, dtype=torch.float64)
        output: Any = super().evaluation_loop(*args, **kwargs)
        nll, tokens = (float(one) for one in self.accelerator.reduce(self._nll.to(self.accelerator.device), "sum"))
        output.metrics[f"eval_{NLL}"] = nll / max(tokens, 1)
        return output

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the NLL of a batch as SFTTrainer does, also if it trains with another loss, and add it to the sum."""
        tokens = int((inputs["labels"][:, 1:] != -100).sum())
        with self._by_nll():
            result = super().prediction_step(model, inputs, *args, **kwargs)
        self._nll += torch.tensor([float(result[0]) * tokens, tokens], dtype=torch.float64)
        return result

    @contextlib.contextmanager
    def _by_nll(self) -> Iterator[None]:
        """Replace DFT's loss and label smoothing by the NLL, since models are compared by the NLL."""
        settings, smoother = cast(SupervisedConfig, self.args), self.label_smoother
        loss_type = settings.loss_type
        settings.loss_type, self.label_smoother = "nll", None
        try:
            yield
        finally:
            settings.loss_type, self.label_smoother = loss_type, smoother


class _Collator(DataCollatorForLanguageModeling):
    """TRL's collator, whose batches also hold the keys of their rows, for messages about them."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad rows to a batch."""
        names = [(example["key"],) for example in examples if "key" in example]  # packed rows have none
        return {**super().torch_call(examples), ROW_NAMES: names}


class _BestCheckpointHere(TrainerCallback):
    """Finds the best checkpoint in the trainer's own folder: Trainer records its path, and a run may have been moved."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any) -> None:
        """Correct the path in the state, which has been read from a checkpoint by now."""
        if state.best_global_step:
            state.best_model_checkpoint = str(output_folder(args) / f"checkpoint-{state.best_global_step}")


def _resumable(args: SupervisedConfig) -> Path | None:
    """Return the newest intact checkpoint, or None if there is none or the best one before it is not intact."""
    newest = newest_checkpoint(args)
    if newest is None:
        return None
    best = TrainerState.load_from_json(str(newest / "trainer_state.json")).best_global_step
    if not args.load_best_model_at_end or not best or newest.name == f"checkpoint-{best}":
        return newest
    if checkpoint.is_intact(newest.with_name(f"checkpoint-{best}")):
        return newest
    logger.warning("The best checkpoint so far, checkpoint-%d, is damaged or missing: training starts over.", best)
    return None


def _as_sft_rows(rows: Dataset) -> Dataset:
    """Return rows as SFTTrainer takes them: `input_ids`, and a `completion_mask` that is 1 on the real response."""

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        mask = [0] * len(row["prompt_ids"]) + [1] * len(row["real_ids"])
        return {"input_ids": row["prompt_ids"] + row["real_ids"], "completion_mask": mask, "key": row["key"]}

    return rows.map(encode, remove_columns=[name for name in rows.column_names if name != "key"])


@contextlib.contextmanager
def _without_caches() -> Iterator[None]:
    """Keep `datasets` from reusing files that it wrote before: a damaged one would be trained on."""
    was_enabled = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if was_enabled:
            datasets.enable_caching()


def save_model(model: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Checksum]:
    """Save a model and its tokenizer atomically; return the checksums of the files by name."""
    with whole_folder(folder) as unfinished, hashing() as taken:
        model.save_pretrained(str(unfinished))
        tokenizer.save_pretrained(unfinished)
        name_base_absolutely(unfinished)
        return checksums_in(unfinished, taken)
