"""Checkpoints of supervised training are trusted only if their manifest and their files agree."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import tiny
from spin_trl.config.sft import supervised_config
from spin_trl.run.checkpoint import is_intact
from spin_trl.training.supervised import train_supervised
from spin_trl.training.whole_checkpoints import newest_checkpoint
from trainers import settings


def rows() -> Dataset:
    ids = [([5, 6, 7], [8, 9]), ([12], [13, 14]), ([15, 16], [17])]
    return Dataset.from_list(
        [{"key": f"k{n}", "prompt_ids": prompt, "real_ids": real} for n, (prompt, real) in enumerate(ids)]
    )


@pytest.fixture
def args(llama: Any) -> Any:
    """Return settings with which two checkpoints have been written."""
    args = supervised_config(settings(per_device_train_batch_size=3, max_steps=2))
    args.save_strategy, args.save_steps = "steps", 1
    train_supervised(llama, tiny.tokenizer(), rows(), args, [])
    return args


def test_a_checkpoint_has_a_manifest_and_no_pickled_arguments(args: Any) -> None:
    folder = newest_checkpoint(args)
    assert folder == Path("out/checkpoint-2")
    assert is_intact(folder)
    assert not list(Path("out").rglob("training_args.bin"))


def test_a_damaged_checkpoint_is_passed_over(args: Any) -> None:
    path = Path("out/checkpoint-2/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert not is_intact(path.parent)
    assert newest_checkpoint(args) == Path("out/checkpoint-1")
