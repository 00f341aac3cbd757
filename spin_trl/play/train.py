"""Trains θ_{t+1}: one iteration of `SPINTrainer` on the run's pairs, resumed where it was interrupted.

Models that are trained on the real responses alone are also trained here. If no checkpoint is given, θ_0 is built from the
run's own dataset. A baseline arm answers "would more SFT have done just as well?": in each iteration it takes as many
gradient steps as self-play did, from the same start, on the same real responses, with as many of them per batch.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import get_peft_model
from transformers import LlamaForCausalLM, PrinterCallback, set_seed

from ..config.iteration import SPINConfig
from ..config.paths import output_folder
from ..data.columns import is_text
from ..errors import RunDirectoryError, SpinError
from ..files import Checksum, checksums_in, whole_folder
from ..generation.store import GenerationStore
from ..models.adapters import Policy, is_adapter
from ..models.policy import load_policy, merge_adapter
from ..models.saving import hashing
from ..report.record import read_figures
from ..run.adapter_bases import name_base_absolutely
from ..run.integrity import recorded
from ..run.journal import Step, lowered
from ..run.progress import ReportSteps
from ..run.run import Run, free_memory, since
from ..run.stage import START, Stage, arm_name
from ..training.scratch import build_tokenizer, start_config, texts_of
from ..training.supervised import save_model, train_supervised
from ..training.trainer import SPINTrainer, newest_checkpoint
from ..training.unplayable import refusal_of_trainer
from .generate import mixes_start, scoring_by_start, trained_on
from .lower import AtLearningRate, faults, lowering
from .mend import check_made_again
from .trackers import training_logs

_LOGGED = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")


def train(run: Run, iteration: int) -> None:
    """Train θ_{t+1}, starting from θ_t, on the pairs of iteration t and of its history.

    Raises:
        GenerationsError: if the generations belong to another dataset, model or template.
        OpponentError: if the policy does not start at its opponent.
    """
    stage = Stage.of(iteration)
    if run.done(Step.TRAIN, stage):
        return
    started = time.monotonic()
    args = _at_iteration(run, iteration, run.iteration_args(iteration))
    trainer, work_seconds = lowering(run, stage, args, lambda args: _trained(run, iteration, args))
    files = recorded(f"{stage}/model", _save(run, trainer, stage))
    if PartialState().is_main_process:
        check_made_again(run, stage, files)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    run.record(
        Step.TRAIN,
        stage,
        seconds=since(started),
        work_seconds=work_seconds,
        steps=trainer.state.global_step,
        pairs=dataclasses.asdict(trainer.pair_counts["train"]),
        objective=_objective_of(args),
        first={name: log[0][name] for name in _LOGGED if name in log[0]} if log else {},
        last={name: log[-1][name] for name in _LOGGED if name in log[-1]} if log else {},
        **faults(trainer.state.log_history, trainer.collapses()),
        files=files,
    )
    del trainer
    free_memory()


def _objective_of(args: SPINConfig) -> dict[str, Any]:
    """Return the settings of an iteration's loss, for the journal and the model card."""
    mix = {"opponent_mix": args.opponent_mix} if args.opponent_mix else {}
    return args.objective_values() | ({"beta": args.beta} if args.uses_beta else {}) | mix


def _trained(run: Run, iteration: int, args: SPINConfig) -> tuple[SPINTrainer, float]:
    """Train an iteration from its newest checkpoint or from its start. Return the trainer and the seconds of work."""
    stage = Stage.of(iteration)
    with training_logs(run, stage):
        trainer = _trainer_of(run, iteration, args)
    trainer.remove_callback(PrinterCallback)  # the loop prints a summary; progress bars and trackers stay
    trainer.add_callback(ReportSteps(run.progress))
    if lowered(run.journal.entries(), stage):
        trainer.add_callback(AtLearningRate(args.learning_rate))
    # If no checkpoint is complete, or it was written by a different number of processes, training starts over.
    checkpoint = newest_checkpoint(args)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    return trainer, round(since(started) + trainer.opponent_seconds, 3)


def _at_iteration(run: Run, iteration: int, args: SPINConfig) -> SPINConfig:
    """Set the objectives' settings for this iteration, and return the settings."""
    for objective, settings in args.objectives:
        opponent = run.decisions.opponent(iteration)
        gap = read_figures(run.directory, opponent).get("gap")
        by_gap = objective.asks_for_gap(settings)
        if by_gap and not opponent.is_start and gap is None:
            raise RunDirectoryError(
                f"`{by_gap}` needs the held-out gap of {opponent}, but {run.directory.path} does not have it. Evaluate that "
                "iteration first."
            )
        for name, value in objective.at(settings, iteration, run.play.num_iterations, gap).items():
            setattr(args, name, value)
    return args


def _trainer_of(run: Run, iteration: int, args: SPINConfig) -> SPINTrainer:
    proto = GenerationStore(run.directory.generations(Stage.of(0))) if iteration and args.needs_proto else None
    start = run.model_of(run.decisions.opponent(iteration))
    continues_adapter = is_adapter(start)
    scoring = scoring_by_start(run) if mixes_start(run, iteration) else contextlib.nullcontext()
    try:
        with scoring as start_logps:
            return SPINTrainer(
                # A path if possible: TRL can load it under any launcher, and with FSDP the opponent is loaded from the path.
                model=load_policy(start, args, run.quantization_config, trainable=True)
                if continues_adapter
                else start,
                args=args,
                train_dataset=run.rows(),
                processing_class=run.tokenizer(),
                quantization_config=None if continues_adapter else run.quantization_config,
                # A copy: PEFT modifies it, and the caller's own is compared with the recipe when the run is resumed.
                peft_config=None if continues_adapter else copy.deepcopy(run.peft_config),
                generations=trained_on(run, iteration),
                proto=proto,
                start=start_logps,
            )
    except SpinError:
        raise
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise refusal_of_trainer(error, run.peft_config) from error


def _save(run: Run, trainer: SPINTrainer, stage: str) -> dict[str, Checksum]:
    """Save the trained model with tokenizer and card, atomically. Return the checksums of its files by name."""
    folder = run.directory.model(stage)
    is_main, wait = PartialState().is_main_process, PartialState().wait_for_everyone
    # All processes take part in gathering the weights; only the main one moves folders.
    with whole_folder(folder, is_main=is_main, wait=wait) as unfinished, hashing() as taken:
        trainer.save_model(str(unfinished))
        trainer.create_model_card(model_name=f"{run.directory.path.name}-{stage}")
        if is_main:
            shutil.copyfile(output_folder(trainer.args) / "README.md", unfinished / "README.md")
            if run.peft_config is not None and run.play.lora_opponent == "merge":
                merge_adapter(unfinished, run.args)
            name_base_absolutely(unfinished)
        return checksums_in(unfinished, taken) if is_main else {}


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
    config = start_config(run.start, len(tokenizer), run.args.max_length or 2048)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id

    def build() -> Policy:
        set_seed(run.args.seed)
        return LlamaForCausalLM(config)

    args = _supervised(run, START, run.args)
    args.num_train_epochs, args.max_steps = run.start.start_num_epochs, -1
    args.learning_rate = run.start.start_learning_rate
    args.label_smoothing_factor = run.start.start_label_smoothing
    args.per_device_train_batch_size, args.gradient_accumulation_steps = run.start.start_batch_size, 1
    model, done = _train_and_save(run, START, build, args)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    run.record(Step.TRAIN, START, seconds=since(started), parameters=parameters, **done)


def play_baseline(run: Run, label_smoothing: float, iteration: int) -> None:
    """Train a baseline arm for as many steps as iteration `iteration` took, starting from the arm's previous model."""
    stage = Stage.of(iteration, arm_name(label_smoothing))
    if run.done(Step.TRAIN, stage):
        return
    started = time.monotonic()
    path = run.model_of(stage.before)
    args = supervised_args(run, iteration, label_smoothing)

    def load() -> Policy:
        # Seed the weights of a new adapter as a trainer would.
        torch.manual_seed(args.seed)
        model = load_policy(path, run.args, run.quantization_config, trainable=True)
        if run.peft_config is not None and not is_adapter(path):
            return get_peft_model(model, copy.deepcopy(run.peft_config))
        return model

    model, done = _train_and_save(run, stage, load, args)
    run.record(Step.TRAIN, stage, seconds=since(started), steps=args.max_steps, **done)
    del model
    free_memory()


def supervised_args(run: Run, iteration: int, label_smoothing: float) -> SPINConfig:
    """Return an iteration's settings for a supervised arm with the same number of steps."""
    args = _supervised(run, Stage.of(iteration, arm_name(label_smoothing)), run.iteration_args(iteration))
    trained = run.done(Step.TRAIN, Stage.of(iteration))
    if trained is None:
        raise RuntimeError(f"Iteration {iteration} has not been trained, so its number of gradient steps is unknown.")
    args.max_steps = trained["steps"]
    args.learning_rate = run.play.baseline_learning_rate or run.iteration_args(0).learning_rate
    args.label_smoothing_factor = label_smoothing
    return args


def _supervised(run: Run, stage: Stage, args: SPINConfig) -> SPINConfig:
    """Return an iteration's settings for the supervised training of a stage."""
    args = copy.copy(args)
    args.output_dir = str(run.directory.training(stage))
    args.run_name = f"{run.tracker_name}-{stage.replace('/', '-')}"
    args.eval_strategy, args.save_strategy, args.remove_unused_columns = "no", "no", False
    return args


def _train_and_save(
    run: Run, stage: Stage, make: Callable[[], Policy], args: SPINConfig
) -> tuple[Policy, dict[str, Any]]:
    """Train a stage's model on the run's rows and save it. Return the model and its values for the journal."""
    tokenizer = run.tokenizer()

    def attempt(args: SPINConfig) -> tuple[Policy, list[dict[str, float]], float]:
        model, started = make(), time.monotonic()
        with training_logs(run, stage):
            history = train_supervised(model, tokenizer, run.rows(), args, [ReportSteps(run.progress)])
        return model, history, since(started)

    model, history, work_seconds = lowering(run, stage, args, attempt)
    files: dict[str, Any] = {}
    if PartialState().is_main_process:
        files = recorded(f"{stage}/model", save_model(model, tokenizer, run.directory.model(stage)))
        shutil.rmtree(output_folder(args), ignore_errors=True)
        check_made_again(run, stage, files)
    PartialState().wait_for_everyone()
    return model, {"work_seconds": work_seconds, **faults(history), "files": files}
