"""Training checkpoints that a run can trust: with a manifest of checksums, written after all other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from transformers import Trainer, TrainingArguments

from ..config.paths import output_folder
from ..models.saving import hashing
from ..run import checkpoint


def newest_checkpoint(args: TrainingArguments) -> Path | None:
    """Return the newest checkpoint that training with these settings can resume from, or None.

    The main process reads the checkpoints' files and broadcasts the result to the others.
    """
    is_main = PartialState().is_main_process
    found = [checkpoint.latest(output_folder(args), args.world_size) if is_main else None]
    return broadcast_object_list(found)[0]


class WholeCheckpointsTrainer(Trainer):
    """transformers' Trainer, whose checkpoints have a manifest, and which saves no pickled arguments."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        with checkpoint.without_arguments(self.args):
            super()._push_from_checkpoint(checkpoint_folder)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with checkpoint.without_arguments(self.args):
            super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with hashing() as taken:
            super()._save_checkpoint(model, trial)
        every = gather_object([*taken.items()])  # each process has written its own random state and shards
        self.accelerator.wait_for_everyone()
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if self.accelerator.is_main_process:
            checkpoint.write_manifest(folder, self.args.world_size, dict(every))
