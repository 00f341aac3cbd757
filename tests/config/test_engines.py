"""Settings of engines in processes of their own are the loop's, with bounds and defaults."""

from __future__ import annotations

import dataclasses

import pytest

from messages import refused
from spin_trl.config.engines import EngineSettings
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.errors import RecipeError


def test_they_are_settings_of_the_loop() -> None:
    play = SelfPlayConfig()
    assert {field.name for field in dataclasses.fields(EngineSettings)} == {
        "vllm_command", "vllm_args", "tensor_parallel", "vllm_unquantised_base", "generate_ahead",
        "generation_continuous", "generation_concurrency", "generation_timeout",
    }  # fmt: skip
    assert (play.vllm_command, play.vllm_args, play.tensor_parallel) == (["vllm"], None, 1)
    assert not play.vllm_unquantised_base
    assert not play.generation_continuous
    assert play.generate_ahead == "start"


@pytest.mark.parametrize(
    ("name", "value"),
    [("tensor_parallel", 0), ("generation_concurrency", 0), ("generation_timeout", 0.0), ("generate_ahead", "often")],
)
def test_what_means_nothing_is_refused(name: str, value: float | str) -> None:
    with refused(RecipeError, f"`{name}`", value):
        SelfPlayConfig(**{name: value})
