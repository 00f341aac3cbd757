"""DPO on top: trains finished models of a run further on preference pairs, as stages of the run.

The reference of DPO is the model that it starts from. Its result is measured like an iteration, with that model as the
opponent, and the gate decides whether it may be delivered.
"""

from __future__ import annotations

import copy
import shutil
import time

from accelerate import PartialState

from ..config.dpo import OF_BEST, OF_LAST
from ..config.dpo_on_top import dpo_config
from ..config.iteration import SPINConfig
from ..config.loop import SelfPlayConfig
from ..config.paths import output_folder
from ..errors import SpinError
from ..evaluation.selection import best_of
from ..models.adapters import is_adapter
from ..models.policy import load_policy
from ..report.record import RunRecord, StageRecord, read_record
from ..run.compute import Compute
from ..run.integrity import recorded
from ..run.journal import Step, newest
from ..run.run import Run, find_stage, free_memory, since
from ..run.stage import BASE, START, Stage
from ..training.preference_trainer import PreferenceTrainer
from ..training.unplayable import refusal_of_trainer
from .fit import fit, record_fit
from .gate import metric_of
from .lower import lowering
from .mend import check_made_again
from .save import save_trained

_LOGGED_BY_DPO = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


def stages_of_dpo(run: Run) -> list[Stage]:
    """Return the stages that `then_dpo` asks for, once all iterations have been played."""
    record, found = read_record(run.directory), list[Stage]()
    known = {START, BASE, *(stage.name for stage in _trained_stages(record))}
    for name in run.play.then_dpo or ():
        origin = origin_of_dpo(record, run.play, name)
        # An iteration that the run ended before is left out.
        found += [Stage.after_dpo(origin)] if origin in known else []
    return list(dict.fromkeys(found))


def origin_of_dpo(record: RunRecord, play: SelfPlayConfig, name: str) -> Stage:
    """Return the stage that a value of `then_dpo` stands for, once all iterations have been played.

    `best` and `last` stand for the iteration that they are now, so that a stage keeps its name if more iterations follow.

    Args:
        record: record of the run.
        play: settings of its loop, which say what is best.
        name: one of [`ORIGINS`], or the name of an iteration.
    """
    trained = _trained_stages(record)
    last = trained[-1].name if trained else START
    if name == OF_BEST and trained:
        return best_of({one.name: one for one in trained if one.name not in record.rejected}, metric_of(play))
    return last if name in (OF_BEST, OF_LAST) else Stage(name)


def _trained_stages(record: RunRecord) -> list[StageRecord]:
    """Return the start and the iterations that have been trained."""
    return [one for one in record.self_play if one.name.is_start or newest(record.journal, Step.TRAIN, one.name)]


def train_on_pairs(run: Run, stage: Stage) -> None:
    """Train a model further on the run's preference pairs, once.

    Raises:
        OpponentError: if the policy does not start at its reference.
        RunDirectoryError: if the model to start from no longer exists.
    """
    if run.done(Step.TRAIN, stage):
        return
    started = time.monotonic()
    find_stage(run, stage.origin)
    args = dpo_args_of(run, stage)
    trainer, work_seconds = lowering(run, stage, args, lambda args: _trained_on_pairs(run, stage, args))
    merges = run.peft_config is not None and run.play.lora_opponent == "merge"
    files = recorded(f"{stage}/model", save_trained(run, trainer, stage, merges=merges, has_card=True))
    if PartialState().is_main_process:
        shutil.rmtree(output_folder(args), ignore_errors=True)
        check_made_again(run, stage, files)
    PartialState().wait_for_everyone()
    found = {"preferences": len(trainer.train_dataset), "objective": {"loss_type": args.losses, "beta": args.beta}}
    times = {"seconds": since(started), "work_seconds": work_seconds}
    record_fit(run, stage, trainer, found, _compute_of_dpo(trainer), _LOGGED_BY_DPO, files, times)
    del trainer
    free_memory()


def dpo_args_of(run: Run, stage: Stage) -> SPINConfig:
    """Return the settings of DPO on top of a stage's origin, with the stage's folder and its name for the trackers."""
    args = dpo_config(run.args, run.play)
    args.output_dir = str(run.directory.training(stage))
    args.run_name = f"{run.tracker_name}-{stage.replace('/', '-')}"
    # Full fine-tuning keeps no second model. An adapter is switched at every step.
    args.precompute_ref_log_probs = run.peft_config is None and not is_adapter(run.model_of(stage.origin))
    return args


def _trained_on_pairs(run: Run, stage: Stage, args: SPINConfig) -> tuple[PreferenceTrainer, float]:
    """Train from the newest checkpoint or from the start. Return the trainer and the seconds, with tokenisation."""
    started = time.monotonic()
    trainer, _ = fit(run, stage, args, lambda: _dpo_trainer(run, stage, args))
    return trainer, since(started)


def _dpo_trainer(run: Run, stage: Stage, args: SPINConfig) -> PreferenceTrainer:
    origin = run.model_of(stage.origin)
    continues_adapter = is_adapter(origin)
    try:
        return PreferenceTrainer(
            load_policy(origin, args, run.quantization_config, trainable=True) if continues_adapter else origin,
            args,
            run.pairs(),
            run.tokenizer(),
            quantization_config=None if continues_adapter else run.quantization_config,
            peft_config=None if continues_adapter else copy.deepcopy(run.peft_config),
        )
    except SpinError:
        raise
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise refusal_of_trainer(error, run.peft_config) from error


def _compute_of_dpo(trainer: PreferenceTrainer) -> Compute:
    """Return the compute of training, with the passes of the reference."""
    tokens = trainer.tokens()
    trained = tokens * float(trainer.state.epoch or 0)
    passes = 0.0 if trainer.is_reference_free else tokens if trainer.precompute_ref_logps else trained
    return Compute(trained=round(trained), scored=round(passes))
