"""Small runs are built from Python, or from a recipe on the command line, and read from their directories."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file

import tiny
from spin_trl import SelfPlay, SelfPlayConfig, SPINConfig, StartConfig

SETTINGS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "num_train_epochs": 1,
    "learning_rate": 2e-2,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "max_length": 64,
    "max_new_tokens": 8,
    "generation_batch_size": 4,
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "num_iterations": 2,
    "held_out_fraction": 0.2,
}
"""Two iterations of three steps on the CPU, on twelve of the fifteen rows; three are held out."""

ROWS = 15


def build(model: Any, run_dir: str | Path = "run", **kwargs: Any) -> SelfPlay:
    """Build a run from Python. Keyword arguments are settings, or arguments of `SelfPlay`."""
    of_play = {field.name for field in dataclasses.fields(SelfPlayConfig)}
    of_args = {field.name for field in dataclasses.fields(SPINConfig)}
    of_play -= {"scorer"} if callable(kwargs.get("scorer")) else set()
    of_play -= {"start"} if isinstance(kwargs.get("start"), StartConfig) else set()
    settings = {**SETTINGS, **{name: kwargs.pop(name) for name in list(kwargs) if name in of_play | of_args}}
    kwargs.setdefault("train_dataset", tiny.sft(ROWS))
    return SelfPlay(
        model=model if not isinstance(model, Path) else str(model),
        args=SPINConfig(**{name: value for name, value in settings.items() if name in of_args}),
        play=SelfPlayConfig(
            run_dir=str(run_dir), **{name: value for name, value in settings.items() if name in of_play}
        ),
        **kwargs,
    )


def recipe(folder: Path, model: Path, rows: Dataset | None = None, **settings: Any) -> Path:
    """Write a recipe file with its data next to it, for the command line, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    data = tiny.write_jsonl(folder / "train.jsonl", tiny.sft(ROWS) if rows is None else rows)
    path = folder / "small.yaml"
    known = {"model_name_or_path": str(model), "dataset_name": str(data), "run_dir": str(folder / "run")}
    path.write_text(yaml.safe_dump({**SETTINGS, **known, **settings}), encoding="utf-8")
    return path


def journal(run_dir: str | Path = "run") -> list[dict[str, Any]]:
    """Return all lines of a run's journal, without their checksums."""
    lines = [json.loads(line) for line in Path(run_dir, "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name != "crc32"} for line in lines]


def steps(run_dir: str | Path = "run") -> list[tuple[str, str]]:
    """Return phase and stage of all finished steps, in order."""
    return [(entry["phase"], entry["stage"]) for entry in journal(run_dir)]


def entry(phase: str, stage: str, run_dir: str | Path = "run") -> dict[str, Any]:
    """Return the only entry for a phase of a stage."""
    (found,) = [line for line in journal(run_dir) if line["phase"] == phase and line["stage"] == stage]
    return found


def weights(folder: str | Path) -> bytes:
    """Return all weights of a model folder, as the bytes of its safetensors files."""
    files = sorted(Path(folder).glob("*.safetensors"))
    assert files, f"no weights in {folder}"
    return b"".join(file.read_bytes() for file in files)


def tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a model folder."""
    return {name: tensor for file in Path(folder).glob("*.safetensors") for name, tensor in load_file(file).items()}


def answers(run_dir: str | Path, stage: str, where: str = "generations") -> dict[tuple[str, int], list[int]]:
    """Return the answers of a stage's opponent by key and sample, read without our code."""
    import pyarrow.parquet as pq

    found: dict[tuple[str, int], list[int]] = {}
    for shard in sorted(Path(run_dir, stage, where).glob("shard-*.parquet")):
        for row in pq.read_table(shard).to_pylist():
            found[(row["key"], row["sample"])] = row["ids"]
    assert found
    return found


def contents(folder: str | Path, *, ignore: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Return every file of a folder, by its path in it."""
    root = Path(folder)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in ignore
    }


def logp(model: Any, prompt: list[int], response: list[int]) -> float:
    """Return log p(response | prompt) from the logits of one unpadded row, without our code or TRL's."""
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([prompt + response])).logits[0].double().log_softmax(dim=-1)
    return sum(float(scores[len(prompt) - 1 + i, token]) for i, token in enumerate(response))


def without_checksums(run_dir: str | Path = "run") -> None:
    """Leave a run as version 0.1.0 would have: with no checksums of its steps' files."""
    lines = [{name: value for name, value in line.items() if name != "files"} for line in journal(run_dir)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    Path(run_dir, "journal.jsonl").write_text(text, encoding="utf-8")
    for manifest in Path(run_dir).rglob("generations.json"):
        found = json.loads(manifest.read_text(encoding="utf-8"))
        found.pop("format", None)
        manifest.write_text(json.dumps(found), encoding="utf-8")
        manifest.with_name("checksums.jsonl").unlink()
