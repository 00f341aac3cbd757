"""The arms of the experiment: SFT of the given model (θ_0), SFT continued, and self-play, all from the same rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from spin_trl import SelfPlay, SelfPlayConfig, SPINConfig
from spin_trl.data.prepare import prepare
from spin_trl.data.published.svamp import Problem, as_rows
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.files import JOURNAL
from spin_trl.run.compute import TRAINED_COUNTS, Compute, compute_of
from spin_trl.run.journal import Journal, Step, newest
from spin_trl.run.stage import Stage

from .figures import LIMIT, Tasks
from .sizes import Size

BATCH = 16
"""Rows per step of SFT, and pairs per step of self-play."""

POINTS = 3
"""Points per epoch of the start's SFT at which the development NLL is measured."""


def sft_rows(problems: list[Problem], template: PairTemplate) -> Dataset:
    """Return problems as rows of tokens for TRL's `SFTTrainer`: prompts masked, EOS included."""
    rows = prepare(as_rows(problems), template)
    return Dataset.from_list(
        [
            {
                "input_ids": row["prompt_ids"] + row["real_ids"],
                "completion_mask": [0] * len(row["prompt_ids"]) + [1] * len(row["real_ids"]),
            }
            for row in rows
        ]
    )


def settings(folder: Path, on_gpu: bool, seed: int, learning_rate: float) -> dict[str, Any]:
    """Return the settings that all arms share: AdamW, a constant learning rate after ten steps of warm-up."""
    return {
        "output_dir": str(folder), "learning_rate": learning_rate, "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 10, "per_device_train_batch_size": BATCH, "per_device_eval_batch_size": 128 if on_gpu else BATCH,
        "seed": seed, "weight_decay": 0.0, "bf16": on_gpu, "use_cpu": not on_gpu, "gradient_checkpointing": False,
        "max_length": 256, "report_to": "none", "disable_tqdm": True, "logging_steps": 20,
    }  # fmt: skip


def train_start(base: Path, tasks: Tasks, folder: Path, size: Size, on_gpu: bool, seed: int) -> dict[str, Any]:
    """Train the given model on the real responses, up to the point with the lowest development NLL; save it to `folder`.

    Returns:
        The steps of the whole training and of the point that was kept.
    """
    template = PairTemplate(AutoTokenizer.from_pretrained(base))
    rows, development = (sft_rows(problems, template) for problems in (tasks.training, tasks.development))
    every = max(len(rows) // BATCH // POINTS, 1)
    unfinished = folder.with_name(folder.name + "-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    args = SFTConfig(
        **settings(unfinished, on_gpu, seed, 1e-4), num_train_epochs=size.start_epochs, completion_only_loss=True,
        eval_strategy="steps", eval_steps=every, save_strategy="steps", save_steps=every, save_total_limit=1,
        save_only_model=True, load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=False,
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    trainer = SFTTrainer(
        str(base), args, train_dataset=rows, eval_dataset=development, processing_class=template.tokenizer
    )
    trainer.train()
    trainer.save_model(str(unfinished / "best"))
    best = int(str(trainer.state.best_model_checkpoint).rpartition("-")[2])
    losses = [round(line["eval_loss"], 4) for line in trainer.state.log_history if "eval_loss" in line]
    shutil.rmtree(folder, ignore_errors=True)
    (unfinished / "best").rename(folder)
    shutil.rmtree(unfinished)
    return {"learning_rate": 1e-4, "steps": trainer.state.global_step, "best_step": best, "development_losses": losses}


def steps_within(compute: float, rows: Dataset) -> int:
    """Return the number of steps of SFT whose compute is nearest to a budget, and at least 1.

    Args:
        compute: budget, in forward passes over a token.
        rows: rows of tokens; a step trains on [`BATCH`] of average length.
    """
    per_step = TRAINED_COUNTS * BATCH * sum(map(len, rows["input_ids"])) / len(rows)
    return max(round(compute / per_step), 1)


class NLLTrainer(SFTTrainer):
    """TRL's SFTTrainer, whose evaluation measures the NLL, whatever loss it trains with."""

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the NLL of a batch."""
        own: Any = self.args
        trained_with, own.loss_type = own.loss_type, "nll"
        try:
            return super().prediction_step(*args, **kwargs)
        finally:
            own.loss_type = trained_with


class KeepBest(TrainerCallback):
    """Keeps the point with the lowest development NLL, and the last one. TRL's own best point discards the last.

    Args:
        folder: folder of both, `best` and `last`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.losses: dict[int, float] = {}

    @property
    def best_step(self) -> int:
        """The step with the lowest development NLL."""
        return min(self.losses, key=self.losses.__getitem__)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, model: Any = None, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Save the model if it is the best so far, and in place of the last one."""
        self.losses[state.global_step] = metrics["eval_loss"]
        model.save_pretrained(self.folder / "last")
        if self.best_step == state.global_step:
            model.save_pretrained(self.folder / "best")


def continue_sft(
    start: Path, tasks: Tasks, folder: Path, on_gpu: bool, seed: int, learning_rate: float, loss: str, compute: float
) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Train the start further on the same rows, with a given compute.

    Yields:
        The names of the points (`best` by development NLL, then `last`; only `last` if it is the best), the folders of
        their models, and what is known about them. Models are saved, because measuring changes a model's forward, which
        TRL's trainer has changed, too.
    """
    template = PairTemplate(AutoTokenizer.from_pretrained(start))
    rows, development = (sft_rows(problems, template) for problems in (tasks.training, tasks.development))
    steps = steps_within(compute, rows)
    args = SFTConfig(
        **settings(folder, on_gpu, seed, learning_rate), max_steps=steps, save_strategy="no", completion_only_loss=True,
        eval_strategy="steps", eval_steps=min(max(len(rows) // BATCH, 1), steps), loss_type=loss,
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    points = KeepBest(folder)
    trainer = NLLTrainer(
        str(start), args, train_dataset=rows, eval_dataset=development, processing_class=template.tokenizer,
        callbacks=[points],
    )  # fmt: skip
    trainer.train()
    if steps not in points.losses:
        trainer.evaluate()
    tokens = sum(map(len, rows["input_ids"])) * BATCH / len(rows)
    told = {"development_losses": {str(step): round(loss, 4) for step, loss in points.losses.items()}}
    for name, step in {"last": steps, "best": points.best_step}.items():
        if name == "last" or step != steps:
            made = Compute(trained=round(tokens * step))
            yield name, folder / name, {**told, "steps": step, "compute": _as_line(made)}


def self_play(
    start: Path, tasks: Tasks, folder: Path, size: Size, on_gpu: bool, seed: int, learning_rate: float, loss: str
) -> Iterator[tuple[int, Path, dict[str, Any]]]:
    """Play all iterations; for each, yield its number (from 1), the folder of its model, and its journal entries.

    The compute is that of all iterations so far.
    """
    args = SPINConfig(
        **settings(folder, on_gpu, seed, learning_rate), loss_type=[loss], num_train_epochs=1, temperature=1.0,
        max_new_tokens=LIMIT.max_new_tokens, generation_batch_size=512, save_strategy="no",
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    play = SelfPlayConfig(
        num_iterations=size.iterations, run_dir=str(folder), held_out_fraction=0.0, stop_at_plateau=False,
        on_regression="continue", identical_stop=1.0,
    )  # fmt: skip
    SelfPlay(str(start), args, play, train_dataset=as_rows(tasks.training)).run()
    entries = Journal(folder / JOURNAL).entries()
    spent = Compute()
    for iteration in range(size.iterations):
        stage = Stage.of(iteration)
        sampled, trained = newest(entries, Step.GENERATE, stage), newest(entries, Step.TRAIN, stage)
        spent += compute_of((sampled, trained)) or Compute()
        told = {
            "identical_pairs": trained["pairs"]["identical"] / trained["pairs"]["total"],
            "steps": trained["steps"],
            "sampled_tokens": sampled["tokens"],
            "generate_seconds": sampled["work_seconds"],
            "train_seconds": trained["work_seconds"],
            "compute": _as_line(spent),
        }
        yield iteration + 1, folder / stage / "model", told


def _as_line(compute: Compute) -> dict[str, float]:
    return {**asdict(compute), "total": compute.total}
