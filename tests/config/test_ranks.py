"""Impossible variables of launchers are refused."""

import pytest
import torch

from messages import refused
from spin_trl import SPINConfig
from spin_trl.config.ranks import check_device, check_ranks
from spin_trl.errors import LaunchError


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_a_rank_that_is_none_of_the_processes_is_refused(name: str) -> None:
    """Otherwise torch waits for the other processes until it times out."""
    with refused(LaunchError, f"{name} is 3", "WORLD_SIZE is 2"):
        check_ranks({name: "3", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        {"RANK": "8", "LOCAL_RANK": "0", "WORLD_SIZE": "16"},
        {"RANK": "5"},
        {"RANK": "0", "WORLD_SIZE": "0"},
        {"RANK": "-1", "WORLD_SIZE": "a"},
        {"RANK": "5", "WORLD_SIZE": "1"},
    ],
)
def test_others_are_left_to_the_libraries(environment: dict[str, str]) -> None:
    check_ranks(environment)


def test_settings_are_not_made_in_such_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refused(LaunchError, "RANK is 3", "WORLD_SIZE is 2"):
        SPINConfig(output_dir="unused")


def test_a_device_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the first phase fails at an assertion of torch's."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("cuda:2", "cuda:7"):
        with refused(LaunchError, f"ACCELERATE_TORCH_DEVICE is {name!r}", "2 devices"):
            check_device({"ACCELERATE_TORCH_DEVICE": name})
    for name in ("cuda:1", "cuda", "cpu", "xla:3", "", "nothing"):
        check_device({"ACCELERATE_TORCH_DEVICE": name})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cuda")
    with refused(LaunchError, "ACCELERATE_TORCH_DEVICE is 'cuda'", "0 devices"):
        SPINConfig(output_dir="unused")
