"""Trains the models that learn from real responses alone: the start, and the baseline arms.

The start is trained from the given model (`start: sft`), or built from the run's own dataset if there is none. A baseline
arm answers "would more SFT have done just as well?": in each iteration it takes as many gradient steps as self-play did, or
as much compute, from the same start, on the same real responses, with as many of them per batch. The arm `sft-best` is
trained from the base instead, once, at the end, for as long as SFT first and self-play together.
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import get_peft_model
from transformers import LlamaForCausalLM, set_seed

from ..config.paths import output_folder
from ..config.sft import NLL, SupervisedConfig, supervised_config
from ..config.sft_first import sft_first_config
from ..data.columns import is_text
from ..errors import BrokenWeightsError, DivergedError
from ..files import whole_folder
from ..models.adapters import Policy, is_adapter
from ..models.policy import load_policy
from ..run.compute import Compute
from ..run.integrity import recorded
from ..run.journal import Step
from ..run.progress import ReportSteps
from ..run.run import Run, free_memory, since
from ..run.stage import BEST_SFT, DFT, START, Stage, smoothing_of_arm
from ..training.scratch import build_tokenizer, start_config, texts_of
from ..training.supervised import SupervisedTrainer, train_supervised
from .ends import end_arm, has_ended
from .equal import epochs_of_arm, steps_of_arm
from .lower import faults, lowered_before, lowering
from .mend import check_made_again
from .save import save_trained
from .trackers import training_logs


@dataclasses.dataclass(frozen=True)
class _Lesson:
    """What supervised training of a stage needs.

    Attributes:
        make: function that builds or loads the model to train.
        rows: prepared rows to train on.
        held_out: prepared rows to choose the best point by; None: the last point is kept.
        patience, epochs: as in [`train_supervised`].
        merges: whether the trained adapter is merged into its base model.
    """

    make: Callable[[], Policy]
    rows: Dataset
    held_out: Dataset | None = None
    patience: int | None = None
    epochs: float | None = None
    merges: bool = False


def make_tokenizer(run: Run, dataset: Dataset) -> None:
    """Build the run's tokenizer from its dataset, once."""
    folder = run.directory.tokenizer()
    if PartialState().is_main_process and not folder.exists():
        run.directory.own(START)
        max_length = run.args.max_length or 2048
        tokenizer = build_tokenizer(texts_of(dataset), run.start, max_length, chats=not is_text(dataset))
        with whole_folder(folder) as unfinished:
            tokenizer.save_pretrained(unfinished)
    PartialState().wait_for_everyone()


def make_start(run: Run) -> None:
    """Train θ_0 on the run's own rows, once: from the given model, or from scratch if there is none."""
    if run.done(Step.TRAIN, START):
        return
    started = time.monotonic()
    args, lesson = _sft_first(run) if run.model is not None else _from_scratch(run)
    trainer, done = _train_and_save(run, START, args, lesson)
    found = _size_of_start(trainer) if run.model is None else _course_of(trainer, len(lesson.rows))
    run.record(Step.TRAIN, START, seconds=since(started), **found, **done)
    del trainer
    free_memory()


def _from_scratch(run: Run) -> tuple[SupervisedConfig, _Lesson]:
    """Return how θ_0 is built if no model is given: a small Llama."""
    tokenizer = run.tokenizer()
    config = start_config(run.start, len(tokenizer), run.args.max_length or 2048)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id

    def build() -> Policy:
        set_seed(run.args.seed)
        return LlamaForCausalLM(config)

    args = _placed(run, START, supervised_config(run.args))
    args.num_train_epochs, args.max_steps = run.start.start_num_epochs, -1
    args.learning_rate, args.rate_setting = run.start.start_learning_rate, "start_learning_rate"
    args.label_smoothing_factor = run.start.start_label_smoothing
    args.per_device_train_batch_size, args.gradient_accumulation_steps = run.start.start_batch_size, 1
    return args, _Lesson(build, run.rows())


def _sft_first(run: Run) -> tuple[SupervisedConfig, _Lesson]:
    """Return how θ_0 is trained from the given model (`start: sft`)."""
    args, lesson = _from_base(run, START, run.sft_rows())
    return args, dataclasses.replace(lesson, patience=run.play.sft_patience)


def _from_base(run: Run, stage: Stage, rows: Dataset) -> tuple[SupervisedConfig, _Lesson]:
    """Return how a stage is trained from the given model with the settings of SFT first, keeping the best point."""
    held_out = run.rows(held_out=True)
    args = _placed(run, stage, sft_first_config(run.args, run.play, measures=len(held_out) > 0))
    lesson = _Lesson(
        lambda: _load_to_train(run, run.given_model, run.sft_peft_config, args.seed),
        rows,
        held_out if len(held_out) else None,
        merges=run.sft_peft_config is not None and run.peft_config is None,
    )
    return args, lesson


def _size_of_start(trainer: SupervisedTrainer) -> dict[str, Any]:
    """Return the size of a start from scratch for the journal."""
    model = cast(torch.nn.Module, trainer.model)
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def _course_of(trainer: SupervisedTrainer, rows: int) -> dict[str, Any]:
    """Return the course of SFT from the base for the journal: steps, the held-out NLL at every point, and the best point."""
    history = [entry for entry in trainer.state.log_history if f"eval_{NLL}" in entry]
    points = [[entry["step"], round(entry["epoch"], 4), entry[f"eval_{NLL}"]] for entry in history]
    best = trainer.state.best_global_step
    return {
        "steps": trainer.state.global_step,
        "rows": rows,
        **({"points": points, "best_step": best} if points and best else {}),
    }


def play_baseline(run: Run, arm: str, iteration: int) -> None:
    """Train a baseline arm for as long as iteration `iteration` took, starting from the arm's previous model.

    [`BEST_SFT`] starts from the base, takes as long as SFT first and all iterations together, and keeps its best point. An
    arm that diverges ends: it is not trained in this iteration or later ones.
    """
    stage = Stage.of(iteration, arm)
    if run.done(Step.TRAIN, stage) or has_ended(run, stage):
        return
    started = time.monotonic()
    args, lesson = _best_sft(run, stage) if arm == BEST_SFT else _continued(run, stage)
    epochs = epochs_of_arm(run, stage, _tokens_an_epoch(lesson.rows))
    try:
        trainer, done = _train_and_save(run, stage, args, dataclasses.replace(lesson, epochs=epochs))
    except (DivergedError, BrokenWeightsError) as error:
        end_arm(run, stage, error)
        trainer = None
    if trainer is None:
        free_memory()  # the error is gone, and with it all that referred to the model
        return
    found = _course_of(trainer, len(lesson.rows)) if arm == BEST_SFT else {"steps": trainer.state.global_step}
    run.record(Step.TRAIN, stage, seconds=since(started), learning_rate=args.learning_rate, **found, **done)
    del trainer
    free_memory()


def _continued(run: Run, stage: Stage) -> tuple[SupervisedConfig, _Lesson]:
    """Return how an arm continues from its previous model."""
    args, path = supervised_args(run, stage.iteration, stage.arm), run.model_of(stage.before)
    return args, _Lesson(lambda: _load_to_train(run, path, run.peft_config, args.seed), run.self_play_rows())


def _best_sft(run: Run, stage: Stage) -> tuple[SupervisedConfig, _Lesson]:
    """Return how the base is trained on all rows that SFT first or self-play has trained on, with the pace of SFT first.

    Its length is given, so it never stops early: it would have used less than self-play.
    """
    args, lesson = _from_base(run, stage, run.sft_rows() if run.play.self_play_prompts == "seen" else run.rows())
    args.max_steps = steps_of_arm(run, stage)
    return args, lesson


def supervised_args(run: Run, iteration: int, arm: str) -> SupervisedConfig:
    """Return an iteration's settings for an arm that continues from its previous model, with the same number of steps."""
    stage = Stage.of(iteration, arm)
    args = _placed(run, stage, supervised_config(run.iteration_args(iteration)))
    args.max_steps = steps_of_arm(run, stage)
    of_sft = sft_first_config(run.args, run.play, measures=False).learning_rate if run.sft_first else None
    args.learning_rate = run.play.baseline_learning_rate or of_sft or run.iteration_args(0).learning_rate
    args.rate_setting = "baseline_learning_rate"
    args.label_smoothing_factor = smoothing_of_arm(arm)
    args.loss_type = "dft" if arm == DFT else "nll"
    return args


def _placed(run: Run, stage: Stage, args: SupervisedConfig) -> SupervisedConfig:
    """Return supervised training's settings with the places of a stage: its folder, and its name for the trackers."""
    args.output_dir = str(run.directory.training(stage))
    args.run_name = f"{run.tracker_name}-{stage.replace('/', '-')}"
    return args


def _load_to_train(run: Run, path: str, peft_config: Any, seed: int) -> Policy:
    """Load a model to train: with a new adapter if there is a configuration, unless it is an adapter already."""
    torch.manual_seed(seed)  # seed the weights of a new adapter as a trainer would
    model = load_policy(path, run.args, run.quantization_config, trainable=True)
    if peft_config is not None and not is_adapter(path):
        return get_peft_model(model, copy.deepcopy(peft_config))
    return model


def _train_and_save(
    run: Run, stage: Stage, args: SupervisedConfig, lesson: _Lesson
) -> tuple[SupervisedTrainer, dict[str, Any]]:
    """Train a stage's model and save it. Return its trainer and its values for the journal."""
    tokenizer = run.tokenizer()

    def attempt(args: SupervisedConfig) -> tuple[SupervisedTrainer, float]:
        model, started = lesson.make(), time.monotonic()
        callbacks = [ReportSteps(run.progress), *lowered_before(run, stage, args)]
        with training_logs(run, stage):
            trainer = train_supervised(
                model, tokenizer, lesson.rows, args, callbacks, lesson.held_out, lesson.patience, lesson.epochs
            )
        return trainer, since(started)

    trainer, work_seconds = lowering(run, stage, args, attempt)
    files = recorded(f"{stage}/model", save_trained(run, trainer, stage, merges=lesson.merges))
    if PartialState().is_main_process:
        shutil.rmtree(output_folder(args), ignore_errors=True)
        check_made_again(run, stage, files)
    PartialState().wait_for_everyone()
    compute = Compute(trained=round(_tokens_an_epoch(lesson.rows) * float(trainer.state.epoch or 0)))
    return trainer, {
        "work_seconds": work_seconds,
        **compute.as_entry(),
        **faults(trainer.state.log_history),
        "files": files,
    }


def _tokens_an_epoch(rows: Dataset) -> int:
    """Return the number of tokens of all prompts and real responses."""
    return sum(map(len, rows["prompt_ids"])) + sum(map(len, rows["real_ids"]))
