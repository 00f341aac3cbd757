"""The arms of the experiment: SFT of the given model (θ_0), SFT continued, and self-play, all from the same rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from spin_trl import SelfPlay, SelfPlayConfig, SPINConfig
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.files import JOURNAL
from spin_trl.run.journal import Journal, Step, newest
from spin_trl.run.stage import Stage

from .figures import LIMIT, Tasks
from .problems import Problem, as_rows

BATCH = 16
"""Rows per step of SFT, and pairs per step of self-play."""

AfterEpoch = Callable[[int, Path], None]


@dataclass(frozen=True)
class Sizes:
    """How much is trained.

    Attributes:
        start_epochs: maximum epochs of SFT for the start.
        iterations: iterations of self-play, of one epoch each.
        continued_epochs: epochs of SFT continued.
        points: points per epoch of the start's SFT at which the development NLL is measured.
        on_gpu: whether to compute in bfloat16 on a GPU, with float32 weights.
    """

    start_epochs: int
    iterations: int
    continued_epochs: int
    points: int
    on_gpu: bool


def sft_rows(problems: list[Problem], template: PairTemplate) -> Dataset:
    """Return problems as TRL's `SFTTrainer` takes rows of tokens: prompts masked, EOS included."""
    rows = prepare(Dataset.from_list(as_rows(problems)), template)
    return Dataset.from_list(
        [
            {
                "input_ids": row["prompt_ids"] + row["real_ids"],
                "completion_mask": [0] * len(row["prompt_ids"]) + [1] * len(row["real_ids"]),
            }
            for row in rows
        ]
    )


def settings(folder: Path, sizes: Sizes, seed: int, learning_rate: float) -> dict[str, Any]:
    """Return the settings that all arms share: AdamW, a constant learning rate after ten steps of warm-up."""
    return {
        "output_dir": str(folder), "learning_rate": learning_rate, "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 10, "per_device_train_batch_size": BATCH, "per_device_eval_batch_size": 128, "seed": seed,
        "weight_decay": 0.0, "bf16": sizes.on_gpu, "use_cpu": not sizes.on_gpu, "gradient_checkpointing": False,
        "max_length": 256, "report_to": "none", "disable_tqdm": True, "logging_steps": 20,
    }  # fmt: skip


def train_start(base: Path, tasks: Tasks, folder: Path, sizes: Sizes, seed: int) -> dict[str, Any]:
    """Train the given model on the real responses, up to the point with the lowest development NLL; save it to `folder`.

    Returns:
        The steps of the whole training and of the point that was kept.
    """
    template = PairTemplate(AutoTokenizer.from_pretrained(base))
    rows, development = (sft_rows(problems, template) for problems in (tasks.training, tasks.development))
    every = max(len(rows) // BATCH // sizes.points, 1)
    unfinished = folder.with_name(folder.name + "-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    args = SFTConfig(
        **settings(unfinished, sizes, seed, 1e-4), num_train_epochs=sizes.start_epochs, completion_only_loss=True,
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
    (unfinished / "best").rename(folder)
    shutil.rmtree(unfinished)
    return {"learning_rate": 1e-4, "steps": trainer.state.global_step, "best_step": best, "development_losses": losses}


def continue_sft(
    start: Path, tasks: Tasks, folder: Path, sizes: Sizes, seed: int, learning_rate: float, after_epoch: AfterEpoch
) -> None:
    """Train the start on, on the same rows; `after_epoch` gets the number of the epoch and the folder of the model.

    The model is saved, because measuring changes a model's forward, which TRL's trainer has changed, too.
    """

    class Measuring(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            model.save_pretrained(folder / "model")
            after_epoch(round(state.epoch), folder / "model")

    template = PairTemplate(AutoTokenizer.from_pretrained(start))
    args = SFTConfig(
        **settings(folder, sizes, seed, learning_rate), num_train_epochs=sizes.continued_epochs, save_strategy="no",
        completion_only_loss=True, model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    SFTTrainer(
        str(start), args, train_dataset=sft_rows(tasks.training, template), processing_class=template.tokenizer,
        callbacks=[Measuring()],
    ).train()  # fmt: skip


def self_play(
    start: Path, tasks: Tasks, folder: Path, sizes: Sizes, seed: int, learning_rate: float, loss: str
) -> Iterator[tuple[int, Path, dict[str, Any]]]:
    """Play all iterations; for each, yield its number (from 1), the folder of its model, and what the journal says of it."""
    args = SPINConfig(
        **settings(folder, sizes, seed, learning_rate), loss_type=[loss], num_train_epochs=1, temperature=1.0,
        max_new_tokens=LIMIT.max_new_tokens, generation_batch_size=512, save_strategy="no",
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    play = SelfPlayConfig(
        num_iterations=sizes.iterations, run_dir=str(folder), held_out_fraction=0.0, stop_at_plateau=False,
        on_regression="continue",
    )  # fmt: skip
    SelfPlay(str(start), args, play, train_dataset=Dataset.from_list(as_rows(tasks.training))).run()
    entries = Journal(folder / JOURNAL).entries()
    for iteration in range(sizes.iterations):
        stage = Stage.of(iteration)
        sampled, trained = newest(entries, Step.GENERATE, stage), newest(entries, Step.TRAIN, stage)
        told = {
            "identical_pairs": trained["pairs"]["identical"] / trained["pairs"]["total"],
            "sampled_tokens": sampled["tokens"],
            "generate_seconds": sampled["work_seconds"],
            "train_seconds": trained["work_seconds"],
        }
        yield iteration + 1, folder / stage / "model", told
