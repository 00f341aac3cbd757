"""Supervised training on the real responses alone: the arm that answers "would more SFT not have done the same?".

The only such code: it makes the start from scratch, too. Per iteration, a baseline arm takes as many gradient steps as
self-play did, from the same start, on the same real responses, with batches of as many of them.
"""

from __future__ import annotations

import copy
import shutil
import time

import torch
from accelerate import PartialState
from peft import get_peft_model

from ..config.iteration import SPINConfig
from ..config.paths import output_folder
from ..models.adapters import is_adapter
from ..models.policy import load_policy
from ..run.journal import Step
from ..run.progress import ReportSteps
from ..run.run import Run, free_memory, since
from ..run.stage import Stage, arm_name
from ..training.supervised import save_model, train_supervised
from .trackers import training_logs


def play_baseline(run: Run, label_smoothing: float, iteration: int) -> None:
    """Train a baseline arm for as many steps as iteration `iteration` took, going on from the arm's previous model."""
    stage = Stage.of(iteration, arm_name(label_smoothing))
    if run.done(Step.TRAIN, stage):
        return
    started = time.monotonic()
    previous = stage.before
    path = run.model_of(previous)
    args = supervised_args(run, iteration, label_smoothing)
    # As a trainer would, for a new adapter's weights.
    torch.manual_seed(args.seed)
    model = load_policy(path, run.args, run.quantization_config, trainable=True)
    if run.peft_config is not None and not is_adapter(path):
        model = get_peft_model(model, copy.deepcopy(run.peft_config))
    tokenizer = run.tokenizer()
    training_started = time.monotonic()
    with training_logs(run, stage):
        train_supervised(model, tokenizer, run.rows(), args, [ReportSteps(run.progress)])
    work_seconds = since(training_started)
    state = PartialState()
    if state.is_main_process:
        save_model(model, tokenizer, run.directory.model(stage))
        shutil.rmtree(output_folder(args), ignore_errors=True)
    state.wait_for_everyone()
    run.record(Step.TRAIN, stage, seconds=since(started), work_seconds=work_seconds, steps=args.max_steps)
    del model
    free_memory()


def supervised_args(run: Run, iteration: int, label_smoothing: float) -> SPINConfig:
    """The iteration's settings, for a supervised arm of the same number of steps."""
    args = copy.copy(run.iteration_args(iteration))
    trained = run.done(Step.TRAIN, Stage.of(iteration))
    if trained is None:
        raise RuntimeError(f"Iteration {iteration} has not been trained: its number of gradient steps is not known.")
    args.max_steps = trained["steps"]
    args.learning_rate = run.play.baseline_learning_rate or run.iteration_args(0).learning_rate
    args.label_smoothing_factor = label_smoothing
    args.run_name = f"{run.tracker_name}-{Stage.of(iteration, arm_name(label_smoothing)).replace('/', '-')}"
    args.output_dir = str(run.directory.training(Stage.of(iteration, arm_name(label_smoothing))))
    args.eval_strategy, args.save_strategy, args.remove_unused_columns = "no", "no", False
    return args
