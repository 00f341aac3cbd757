"""θ_0 for those who have no checkpoint: built from the run's own dataset, and trained on it with SFT."""

from __future__ import annotations

import copy
import shutil
import time

from accelerate import PartialState
from datasets import Dataset
from transformers import LlamaForCausalLM, set_seed

from ..config.iteration import SPINConfig
from ..data.columns import is_text
from ..files import whole_folder
from ..run.journal import Step
from ..run.progress import ReportSteps
from ..run.run import Run, since
from ..run.stage import START
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
    start, tokenizer = run.start, run.tokenizer()
    set_seed(run.args.seed)
    config = start_config(start, len(tokenizer), run.args.max_length or 2048)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = LlamaForCausalLM(config)
    training_started = time.monotonic()
    with training_logs(run, START):
        train_supervised(model, tokenizer, run.rows(), _supervised_args(run), [ReportSteps(run.progress)])
    work_seconds = since(training_started)
    if PartialState().is_main_process:
        save_model(model, tokenizer, run.directory.model(START))
        shutil.rmtree(run.directory.training(START), ignore_errors=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    run.record(Step.TRAIN, START, seconds=since(started), work_seconds=work_seconds, parameters=parameters)


def _supervised_args(run: Run) -> SPINConfig:
    args = copy.copy(run.args)
    args.output_dir = str(run.directory.training(START))
    args.run_name = f"{run.tracker_name}-{START}"
    args.num_train_epochs = run.start.start_num_epochs
    args.max_steps = -1
    args.learning_rate = run.start.start_learning_rate
    args.label_smoothing_factor = run.start.start_label_smoothing
    args.per_device_train_batch_size, args.gradient_accumulation_steps = run.start.start_batch_size, 1
    args.eval_strategy, args.save_strategy, args.remove_unused_columns = "no", "no", False
    return args
