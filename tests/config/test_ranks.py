"""Impossible launcher variables are refused."""

import pytest

from messages import refused
from spin_trl import SPINConfig
from spin_trl.config.ranks import check_ranks
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
