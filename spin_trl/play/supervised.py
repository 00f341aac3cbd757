"""Supervised training on the real responses alone: a start from scratch, and the baseline arms.

θ_0 for those who have no checkpoint is built from the run's own dataset, and trained on it. A baseline arm answers
"would more SFT not have done the same?": per iteration it takes as many gradient steps as self-play did, from the same
start, on the same real responses, with batches of as many of them.
"""

from __future__ import annotations

import copy
import shutil
import time

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import get_peft_model
from transformers import LlamaForCausalLM, TrainingArguments, set_seed

from ..config.iteration import SPINConfig
from ..config.paths import output_folder
from ..data.columns import is_text
from ..files import whole_folder
from ..models.adapters import Policy, is_adapter
from ..models.policy import load_policy
from ..run.journal import Step
from ..run.progress import ReportSteps
from ..run.run import Run, free_memory, since
from ..run.stage import START, Stage, arm_name
from ..training.scratch import build_tokenizer, start_config, texts_of
from ..training.supervised import save_model, train_supervised
from .trackers import training_logs


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
    """Build θ_0 and train it on the run's own rows, once."""
    if run.done(Step.TRAIN, START):
        return
    started = time.monotonic()
    tokenizer = run.tokenizer()
    set_seed(run.args.seed)
    config = start_config(run.start, len(tokenizer), run.args.max_length or 2048)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = LlamaForCausalLM(config)
    args = _supervised(run, START, run.args)
    args.num_train_epochs, args.max_steps = run.start.start_num_epochs, -1
    args.learning_rate = run.start.start_learning_rate
    args.label_smoothing_factor = run.start.start_label_smoothing
    args.per_device_train_batch_size, args.gradient_accumulation_steps = run.start.start_batch_size, 1
    work_seconds = _train_and_save(run, START, model, args)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    run.record(Step.TRAIN, START, seconds=since(started), work_seconds=work_seconds, parameters=parameters)


def play_baseline(run: Run, label_smoothing: float, iteration: int) -> None:
    """Train a baseline arm for as many steps as iteration `iteration` took, going on from the arm's previous model."""
    stage = Stage.of(iteration, arm_name(label_smoothing))
    if run.done(Step.TRAIN, stage):
        return
    started = time.monotonic()
    path = run.model_of(stage.before)
    args = supervised_args(run, iteration, label_smoothing)
    # As a trainer would, for a new adapter's weights.
    torch.manual_seed(args.seed)
    model = load_policy(path, run.args, run.quantization_config, trainable=True)
    if run.peft_config is not None and not is_adapter(path):
        model = get_peft_model(model, copy.deepcopy(run.peft_config))
    work_seconds = _train_and_save(run, stage, model, args)
    run.record(Step.TRAIN, stage, seconds=since(started), work_seconds=work_seconds, steps=args.max_steps)
    del model
    free_memory()


def supervised_args(run: Run, iteration: int, label_smoothing: float) -> TrainingArguments:
    """The iteration's settings, for a supervised arm of the same number of steps."""
    args = _supervised(run, Stage.of(iteration, arm_name(label_smoothing)), run.iteration_args(iteration))
    trained = run.done(Step.TRAIN, Stage.of(iteration))
    if trained is None:
        raise RuntimeError(f"Iteration {iteration} has not been trained: its number of gradient steps is not known.")
    args.max_steps = trained["steps"]
    args.learning_rate = run.play.baseline_learning_rate or run.iteration_args(0).learning_rate
    args.label_smoothing_factor = label_smoothing
    return args


def _supervised(run: Run, stage: Stage, args: SPINConfig) -> TrainingArguments:
    """Settings of an iteration, for the supervised training of a stage."""
    args = copy.copy(args)
    args.output_dir = str(run.directory.training(stage))
    args.run_name = f"{run.tracker_name}-{stage.replace('/', '-')}"
    args.eval_strategy, args.save_strategy, args.remove_unused_columns = "no", "no", False
    return args


def _train_and_save(run: Run, stage: Stage, model: Policy, args: TrainingArguments) -> float:
    """Train a stage's model on the run's rows, and keep it. Returns the seconds that the training took."""
    tokenizer, started = run.tokenizer(), time.monotonic()
    with training_logs(run, stage):
        train_supervised(model, tokenizer, run.rows(), args, run.args.max_length, [ReportSteps(run.progress)])
    work_seconds = since(started)
    if PartialState().is_main_process:
        save_model(model, tokenizer, run.directory.model(stage))
        shutil.rmtree(output_folder(args), ignore_errors=True)
    PartialState().wait_for_everyone()
    return work_seconds
