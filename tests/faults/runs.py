"""The runs that are disturbed: full fine-tuning, LoRA and LoRA on 4 bits, each of two iterations and a few seconds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

import tiny

from .acts import Ended, forked
from .outcome import Results, results_of
from .writes import RUN_DIR, Operation, watch

COMMAND: Final = ("run", "small.yaml")
"""Command that plays a run in its folder, and resumes it."""

_SHARED: Final[dict[str, Any]] = {
    "run_dir": RUN_DIR,
    "num_iterations": 2,
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 2e-2,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "max_length": 96,
    "max_new_tokens": 8,
    "generation_batch_size": 4,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "report_to": "none",
}
_QUICKSTART: Final[dict[str, Any]] = {
    "max_rows": 8,
    "held_out_max": 3,
    "scorer": "spin_trl.sentences:score",
    "metric_for_best_iteration": "score",
    "start_tokenizer": "char",
    "start_hidden_size": 16,
    "start_num_layers": 1,
    "start_num_heads": 2,
    "start_num_epochs": 1,
    "start_batch_size": 4,
    "loss_type": "space",
    "baseline": "sft",
    "keep_iterations": 1,
}
_LORA: Final[dict[str, Any]] = {
    "held_out_fraction": 0.25,
    "use_peft": True,
    "lora_r": 2,
    "lora_target_modules": ["q_proj", "v_proj"],
}
_NF4: Final[dict[str, Any]] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "learning_rate": 0.1}

ROWS: Final = 11
"""Number of rows: three are held out, and eight are trained on in two steps."""


@dataclass(frozen=True)
class Task:
    """A run to disturb.

    Attributes:
        name: how it trains.
        settings: settings of its recipe.
        splits: splits of the quickstart's data to train on and to hold out; None for the tests' own rows, from a file.
        first: index of the first of the tests' own rows.
    """

    name: str
    settings: dict[str, Any]
    splits: tuple[str, str] | None = None
    first: int = 0

    def lay_out(self, folder: Path, model: Path) -> None:
        """Write recipe and data into a new folder."""
        folder.mkdir(parents=True)
        if self.splits is not None:
            data = "spin_trl.sentences:load"
            names = {"dataset_name": data, "dataset_split": self.splits[0]}
            names |= {"held_out_name": data, "held_out_split": self.splits[1]}
        else:
            rows = tiny.sft(self.first + ROWS).select(range(self.first, self.first + ROWS))
            tiny.write_jsonl(folder / "train.jsonl", rows)
            names = {"dataset_name": "train.jsonl", "model_name_or_path": str(model)}
        recipe = {**_SHARED, **self.settings, **names}
        (folder / "small.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


TASKS: Final = (
    Task("full", _QUICKSTART, ("train", "test")),
    Task("LoRA", _LORA),
    Task("4-bit", _LORA | _NF4, None, ROWS),
)
ANOTHER_FULL: Final = Task("another full", _QUICKSTART | {"seed": 7}, ("test", "train"))
"""A run on other data, whose files replace another's. For LoRA and 4-bit, each is that to the other."""


@dataclass(frozen=True)
class Undisturbed:
    """An undisturbed run.

    Attributes:
        task: what was played.
        folder: folder it was played in.
        model: folder of the model that tasks without their own start begin with.
        results: its results.
        operations: all its file operations, in order.
    """

    task: Task
    folder: Path
    model: Path
    results: Results
    operations: list[Operation]


def play(task: Task, folder: Path, model: Path, half_way: Mapping[str, str] | None = None) -> Undisturbed:
    """Play a run to its end, and record its file operations.

    Args:
        task: what to play.
        folder: folder to play in; it must not exist.
        model: model that tasks without their own start begin with.
        half_way: names of folders next to this one; the run is copied there before the given file is renamed into
        place.

    Raises:
        RuntimeError: if it did not end well, so that there is nothing to compare with.
    """
    task.lay_out(folder, model)
    noted = folder / "operations.jsonl"
    copies = {path: folder.with_name(f"{folder.name}, {name}") for name, path in (half_way or {}).items()}
    ended = forked(folder, COMMAND, lambda: watch(folder, _noting(noted, folder, copies)))
    if ended.code != 0 or not all(copy.is_dir() for copy in copies.values()):
        raise RuntimeError(f"The undisturbed run ({task.name}) ended with {ended.code}:\n{ended.output}")
    lines = noted.read_text(encoding="utf-8").splitlines()
    operations = [Operation(**json.loads(line)) for line in lines]
    return Undisturbed(task, folder, model, results_of(folder), operations)


def go_on(folder: Path) -> Ended:
    """Run the same command again, undisturbed."""
    return forked(folder, COMMAND)


def _noting(file: Path, folder: Path, copies: Mapping[str, Path]) -> Callable[[Operation], None]:
    """Return a function that adds operations to a file outside the run, and copies a run before some of them."""
    lines = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(operation: Operation) -> None:
        os.write(lines, json.dumps(vars(operation)).encode() + b"\n")
        if operation.path in copies:
            shutil.copytree(folder, copies[operation.path], symlinks=True)

    return note
