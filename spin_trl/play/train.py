"""Trains θ_{t+1}: one iteration of `SPINTrainer` on the run's pairs, resumed where it was interrupted."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from typing import Any

from accelerate import PartialState

from ..config.iteration import SPINConfig
from ..errors import RunDirectoryError, SpinError
from ..generation.store import GenerationStore
from ..models.adapters import is_adapter
from ..models.policy import load_policy
from ..report.record import read_figures
from ..run.compute import Compute
from ..run.integrity import recorded
from ..run.journal import Step
from ..run.run import Run, free_memory, since
from ..run.stage import Stage
from ..training.trainer import SPINTrainer
from ..training.unplayable import refusal_of_trainer
from .fit import fit, record_fit
from .generate import mixes_start, scoring_by_start, trained_on
from .lower import lowering
from .mend import check_made_again
from .save import save_trained

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
    merges = run.peft_config is not None and run.play.lora_opponent == "merge"
    files = recorded(f"{stage}/model", save_trained(run, trainer, stage, merges=merges, has_card=True))
    if PartialState().is_main_process:
        check_made_again(run, stage, files)
    found = {"pairs": dataclasses.asdict(trainer.pair_counts["train"]), "objective": _objective_of(args)}
    times = {"seconds": since(started), "work_seconds": work_seconds}
    record_fit(run, stage, trainer, found, _compute_of(run, trainer, args, iteration), _LOGGED, files, times)
    del trainer
    free_memory()


def _compute_of(run: Run, trainer: SPINTrainer, args: SPINConfig, iteration: int) -> Compute:
    """Return the compute of an iteration's training, with the passes of its opponent."""
    tokens = float(trainer.pair_counts["train"].tokens)
    if iteration and args.needs_proto:  # every pair has a third response, the start's to the same prompt
        protos = GenerationStore(run.directory.generations(Stage.of(0))).table()["length"].to_pylist()
        tokens += len(trainer.train_dataset) * sum(protos) / len(protos)
    trained = tokens * float(trainer.state.epoch or 0)
    passes = 0.0 if trainer.is_reference_free else tokens if trainer.precompute_ref_logps else trained
    return Compute(trained=round(trained), scored=round(passes))


def _objective_of(args: SPINConfig) -> dict[str, Any]:
    """Return the settings of an iteration's loss, for the journal and the model card."""
    mix = {"opponent_mix": args.opponent_mix} if args.opponent_mix else {}
    return args.objective_values() | ({"beta": args.beta} if args.uses_beta else {}) | mix


def _trained(run: Run, iteration: int, args: SPINConfig) -> tuple[SPINTrainer, float]:
    """Train an iteration from its newest checkpoint or from its start. Return the trainer and the seconds of work."""
    trainer, seconds = fit(run, Stage.of(iteration), args, lambda: _trainer_of(run, iteration, args))
    return trainer, round(seconds + trainer.opponent_seconds, 3)


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
                train_dataset=run.self_play_rows(),
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
