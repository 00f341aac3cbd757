"""Saves a stage's model when its training has finished: all of its files, or none."""

from __future__ import annotations

import shutil

from accelerate import PartialState

from ..config.paths import output_folder
from ..files import Checksum, checksums_in, whole_folder
from ..models.policy import merge_adapter
from ..models.saving import hashing
from ..run.adapter_bases import name_base_absolutely
from ..run.run import Run
from ..training.supervised import SupervisedTrainer
from ..training.trainer import SPINTrainer


def save_trained(
    run: Run, trainer: SPINTrainer | SupervisedTrainer, stage: str, *, merges: bool, has_card: bool = False
) -> dict[str, Checksum]:
    """Save a trained model with its tokenizer, atomically. Return the checksums of its files by name.

    Args:
        run: the run.
        trainer: trainer of the model.
        stage: stage of the model.
        merges: whether the trained adapter is merged into its base model.
        has_card: whether the trainer's model card is saved, too.
    """
    is_main, wait = PartialState().is_main_process, PartialState().wait_for_everyone
    # All processes take part in gathering the weights; only the main one moves folders.
    with whole_folder(run.directory.model(stage), is_main=is_main, wait=wait) as unfinished, hashing() as taken:
        trainer.save_model(str(unfinished))
        if has_card:
            trainer.create_model_card(model_name=f"{run.directory.path.name}-{stage}")
        if is_main:
            if has_card:
                shutil.copyfile(output_folder(trainer.args) / "README.md", unfinished / "README.md")
            if merges:
                merge_adapter(unfinished, run.args)
            name_base_absolutely(unfinished)
        return checksums_in(unfinished, taken) if is_main else {}
