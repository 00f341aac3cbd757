"""Unusual values are reported by the setting's name, with the value found and the usual range; others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from messages import names
from spin_trl import SelfPlayConfig, SPINConfig
from spin_trl.config.recipe import Recipe, read_settings
from spin_trl.config.unusual import long_warmup, unusual

CPU: dict[str, Any] = {"use_cpu": True, "bf16": False}


def read(path: Path, **settings: Any) -> Recipe:
    path.write_text(yaml.safe_dump({**CPU, **settings}), encoding="utf-8")
    return read_settings(str(path))


def args_of(**settings: Any) -> SPINConfig:
    return SPINConfig("out", **CPU, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, None),
        ({"learning_rate": 1e-5, "beta": 5.0, "num_train_epochs": 2, "temperature": 0.0}, None),
        ({"learning_rate": 0.5}, "learning_rate"),
        ({"learning_rate": 0.5, "optim": "sgd"}, None),
        ({"learning_rate": [1e-6, 0.5, 1e-6]}, "learning_rate"),
        ({"beta": 100.0}, "beta"),
        ({"beta": 0.1, "loss_type": "space"}, None),
        ({"temperature": 5.0}, "temperature"),
        ({"num_train_epochs": 1000}, "num_train_epochs"),
        ({"num_train_epochs": 1000, "max_steps": 3}, None),
        ({"warmup_steps": 10, "max_steps": 10}, "warmup_steps"),
        ({"warmup_steps": 10, "max_steps": 10, "lr_scheduler_type": "constant"}, None),
        ({"warmup_steps": 0.9, "max_steps": 10}, None),
        ({"weight_decay": 3.0}, "weight_decay"),
        ({"beta": -1.0}, None),
        ({"beta": [0.0, 100.0, 0.1]}, "beta"),
    ],
)
def test_unusual_values_are_warned_of(settings: dict[str, Any], said: str | None, tmp_path: Path) -> None:
    found = read(tmp_path / "a.yaml", **settings).unusual()
    assert [names(one, f"`{said}`") for one in found] == ([] if said is None else [True])


@pytest.mark.parametrize(
    ("settings", "rows", "processes", "steps"),
    [
        ({}, 12, 1, 9),  # 3 batches of 4, three epochs
        ({}, 13, 2, 6),
        ({"num_generations": 2}, 12, 1, 18),
        ({"gradient_accumulation_steps": 2}, 12, 1, 6),
        ({"num_train_epochs": [3, 1, 3]}, 12, 1, 3),
        ({"dataloader_drop_last": True}, 11, 1, 6),
    ],
)
def test_a_warmup_longer_than_the_training_of_the_rows_is_warned_of(
    settings: dict[str, Any], rows: int, processes: int, steps: int, tmp_path: Path
) -> None:
    """It is compared with the steps that Trainer will take; the message has their number."""
    known = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "num_train_epochs": 3, **settings}
    for warmup, number in ((steps, 1), (steps - 1, 0), (0.99, 0)):
        found = read(tmp_path / "a.yaml", warmup_steps=warmup, **known)
        said = long_warmup(found.args, found.play, rows, processes)
        assert len(said) == number
        assert all(names(one, "`warmup_steps`", f"{steps} steps", rows) for one in said)


def test_the_sentence_has_the_value_what_is_usual_and_why() -> None:
    (said,) = unusual(args_of(learning_rate=0.5), SelfPlayConfig())
    assert names(said, "`learning_rate`", 0.5, "1e-09", 0.01, "SPIN")


def test_shipped_defaults_are_usual() -> None:
    assert unusual(args_of(), SelfPlayConfig()) == []


@pytest.mark.parametrize(
    ("values", "numbers"), [([0.5, 0.5, 1e-6], [0.5]), ([0.5, 1e-6, 0.25], [0.5, 0.25]), ([1e-6, 1e-7, 1e-6], [])]
)
def test_each_value_of_a_list_is_looked_at_and_said_once(values: list[float], numbers: list[float]) -> None:
    """The list applies, regardless of the single value in the settings."""
    said = unusual(
        args_of(learning_rate=3.0), SelfPlayConfig(num_iterations=3, per_iteration={"learning_rate": values})
    )
    assert all(names(one, "`learning_rate`", number) for one, number in zip(said, numbers, strict=True))


@pytest.mark.parametrize("max_steps", [-1, 10])
def test_a_long_warmup_is_said_once_before_the_rows_are_known_or_after(max_steps: int) -> None:
    """With `max_steps`, the number of rows does not matter, so the warning comes when the settings are read."""
    args = args_of(max_steps=max_steps, warmup_steps=100, num_train_epochs=1)
    early, late = unusual(args, SelfPlayConfig()), long_warmup(args, SelfPlayConfig(), rows=8, processes=1)
    assert (len(early), len(late)) == ((1, 0) if max_steps > 0 else (0, 1))
    (said,) = [*early, *late]
    assert names(said, "`warmup_steps`", 100)
