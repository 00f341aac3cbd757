"""Materials for inputs: a tiny model, rows, and valid run directories, created once and only read."""

from __future__ import annotations

import functools
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import yaml

import runs
import tiny
from spin_trl.data.keys import row_keys
from spin_trl.data.load import load_rows

ARCHIVES = Path(__file__).parents[1] / "data" / "runs-0.1.0"

SCRATCH: dict[str, Any] = {
    "start_tokenizer": "char", "start_hidden_size": 8, "start_num_layers": 1, "start_num_heads": 2,
    "start_num_epochs": 1,
    "start_batch_size": 8,
}  # fmt: skip
"""A start that takes no time to build."""

PLAYED = ("finished", "scored", "generated", "training", "lora")
"""Runs played by the current code, as far as their names say; those of 0.1.0 are read from their archives."""


MAPPINGS: dict[str, dict[str, str]] = {
    "question-answer": {"question": "prompt", "answer": "completion"},
    "real-generated": {"real": "messages"},
}
"""Columns to be renamed, by the kind of rows."""


class Materials:
    """Materials for inputs.

    Args:
        folder: folder that holds them.
        command: runs `spin-trl` in a separate process: called with its arguments, the folder and a function that is
            called in that process first, or None. Returns the exit code.
    """

    def __init__(self, folder: Path, command: Callable[..., int]) -> None:
        self.folder = folder
        self._command = command
        self.model = tiny.save(folder / "model", tiny.model(num_hidden_layers=1))
        self.rows = {kind: tiny.sft(8, kind).to_list() for kind in get_args(tiny.SFTKind)}
        self.data = tiny.write_jsonl(folder / "train.jsonl", tiny.sft(10))

    def digest(self, kind: tiny.SFTKind, number: int) -> str:
        """Return the digest of the first rows of a kind, from a JSON Lines file that holds them unchanged."""
        path = self.folder / f"{kind}-{number}.jsonl"
        if not path.exists():
            tiny.write_jsonl(path, tiny.sft(8, kind).select(range(number)))
        return row_keys(load_rows(str(path), column_mapping=MAPPINGS.get(kind))).digest

    @functools.cached_property
    def earlier(self) -> list[Path]:
        """Return folders with a run of version 0.1.0 each, and its recipe, model and data next to it."""
        return [self._unpack(path) for path in sorted(ARCHIVES.glob("*.tar.gz"))]

    def _unpack(self, path: Path) -> Path:
        folder = self.folder / path.name.removesuffix(".tar.gz")
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
        return folder

    @functools.cached_property
    def played(self) -> list[Path]:
        """Return folders with a run of the current code each, named as in `PLAYED`."""
        return [self._play(name) for name in PLAYED]

    def _play(self, name: str) -> Path:
        folder = self.folder / f"played-{name}"
        folder.mkdir()
        own: dict[str, dict[str, Any]] = {
            "scored": {"scorer": ["exact_match"], "metric_for_best_iteration": "score", "baseline": "sft"},
            "training": {"save_strategy": "steps", "save_steps": 1},
            "lora": {"use_peft": True, "lora_r": 2, "lora_target_modules": "all-linear"},
        }
        known = {"model_name_or_path": str(self.model), "dataset_name": str(self.data), "run_dir": "run"}
        settings = {**runs.SETTINGS, "num_iterations": 1, "max_new_tokens": 4, **known, **own.get(name, {})}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        phases = {"generated": ["start", "generate"], "training": ["start", "generate", "train"]}
        for phase in phases.get(name, ["run"]):
            dies = _die_behind_a_checkpoint if phase == "train" else None
            code = self._command([phase, "recipe.yaml"], folder, dies)
            if code and dies is None:
                raise RuntimeError(f"{name}: `spin-trl {phase}` ended with {code} on a run that is in order")
        return folder


def _die_behind_a_checkpoint() -> None:
    """Let this process die at its first step after a checkpoint."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    def die(*_: Any) -> None:
        if list(Path("run/iteration-0/train").glob("checkpoint-*/checkpoint.json")):
            os._exit(1)

    register_optimizer_step_pre_hook(die)
