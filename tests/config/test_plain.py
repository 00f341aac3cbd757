"""Settings are written as plain YAML, with only what differs from the defaults, and without secrets."""

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import PartialState

from spin_trl import SelfPlayConfig, SPINConfig, StartConfig
from spin_trl.config.plain import accelerates_state_kept, differences_from_defaults, plain

CPU: dict[str, Any] = {"use_cpu": True, "bf16": False}


def test_only_what_differs_from_the_defaults_is_written() -> None:
    """The recipe then says what was chosen."""
    assert differences_from_defaults(SelfPlayConfig(), StartConfig()) == {}
    args = SPINConfig("out", **CPU, beta=0.5, loss_type="hinge", temperature=0.7)
    written = differences_from_defaults(args)
    assert written == {
        "output_dir": "out",
        "use_cpu": True,
        "bf16": False,
        "beta": 0.5,
        "loss_type": ["hinge"],
        "temperature": 0.7,
    }


def test_the_device_of_the_process_stays_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """TrainingArguments sets it for the whole process; reading settings must not move a GPU run to the CPU."""
    args = SPINConfig("out", **CPU)
    state = PartialState()
    monkeypatch.setitem(PartialState._shared_state, "device", torch.device("meta"))  # stands in for a GPU
    differences_from_defaults(args)
    assert PartialState().device == torch.device("meta")
    assert state.device == torch.device("meta")


def test_what_is_written_is_plain_yaml() -> None:
    """Enums, tuples and numbers read back as YAML's own types."""
    args = SPINConfig("out", **CPU, optim="rmsprop", lr_scheduler_type="cosine", learning_rate=5e-7)
    written = yaml.safe_load(yaml.safe_dump(differences_from_defaults(args)))
    assert (written["optim"], written["lr_scheduler_type"], written["learning_rate"]) == ("rmsprop", "cosine", 5e-7)


class Way(enum.Enum):
    UP = "up"


@dataclass
class Inner:
    path: Path
    ways: tuple[Way, ...]


def test_a_value_is_what_yaml_holds_of_it() -> None:
    value = {"a": Inner(Path("x"), (Way.UP,)), 1: {3, 1, 2}, "b": (None, True, 1.5, torch.float16)}
    found = plain(value)
    assert found == {"a": {"path": "x", "ways": ["up"]}, "1": [1, 2, 3], "b": [None, True, 1.5, "torch.float16"]}
    assert yaml.safe_load(yaml.safe_dump(found)) == found


def test_secrets_go_wherever_they_stand() -> None:
    """This includes fields and values inside a mapping."""
    assert plain({"model_init_kwargs": {"token": "hf_x", "dtype": "auto"}}) == {"model_init_kwargs": {"dtype": "auto"}}
    args = SPINConfig("out", **CPU, hub_token="hf_x", push_to_hub=False)
    assert "hub_token" not in differences_from_defaults(args)


def test_what_a_default_becomes_is_no_difference() -> None:
    """`greater_is_better_iteration` is derived from the metric, so its default depends on the metric."""
    assert differences_from_defaults(SelfPlayConfig(metric_for_best_iteration="nll")) == {}
    found = differences_from_defaults(SelfPlayConfig(metric_for_best_iteration="win_rate"))
    assert found == {"metric_for_best_iteration": "win_rate", "greater_is_better_iteration": True}


def test_accelerates_state_comes_back_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    PartialState()
    before = dict(PartialState._shared_state)

    def change() -> None:
        with accelerates_state_kept():
            PartialState._shared_state.clear()
            PartialState._shared_state["device"] = torch.device("meta")
            raise KeyError

    with pytest.raises(KeyError):
        change()
    assert dict(PartialState._shared_state) == before
