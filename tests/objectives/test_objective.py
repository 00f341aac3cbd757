"""An objective declares its inputs by its function's signature, and gets those and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.objectives.objective import (
    LOGRATIOS,
    NUM_GENERATIONS,
    OPPONENT,
    POLICY,
    PROTO,
    Objective,
    logratios_of,
)


@dataclass
class OwnSettings:
    mine_scale: float | None = None
    mine_count: float | None = None
    mine_order: list[float] | None = None
    mine_way: str | None = None
    mine_shift: float | None = None


def scaled(
    real_logratios: torch.Tensor, generated_logratios: torch.Tensor, *, scale: float, shift: float
) -> torch.Tensor:
    return scale * (generated_logratios - real_logratios) + shift


MINE: Objective[OwnSettings] = Objective(
    "mine",
    "Mine",
    function=scaled,
    published=OwnSettings(0.5, NUM_GENERATIONS, [1.0, 2.0], "up", 0.0),
    least={"mine_shift": -1.0},
    figures=lambda real_logratios, generated_logratios, *, scale, shift: {"largest": scale * real_logratios.max()},
)


def of_three(
    policy_real_logps: torch.Tensor, policy_proto_logps: torch.Tensor | None, *, shift: float
) -> torch.Tensor:
    return policy_real_logps + shift + (0 if policy_proto_logps is None else policy_proto_logps)


THREE: Objective[OwnSettings] = Objective(
    "three", "Three", function=of_three, published=OwnSettings(mine_shift=1.0), without_proto={"mine_shift": 0.0}
)


def tensors(**values: list[float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


FOUR = tensors(
    policy_real_logps=[-1.0, -4.0], policy_generated_logps=[-2.0, -1.0],
    opponent_real_logps=[-3.0, -4.0], opponent_generated_logps=[-1.0, -1.5],
)  # fmt: skip
"""r is 2 and 0, r' is -1 and 0.5."""


def test_an_objective_needs_what_its_function_takes() -> None:
    assert MINE.inputs == LOGRATIOS
    assert (MINE.needs_opponent, MINE.needs_proto) == (True, False)
    assert THREE.inputs == (POLICY[0], *PROTO)
    assert (THREE.needs_opponent, THREE.needs_proto) == (False, True)


def test_log_ratios_are_made_of_the_four_log_probabilities() -> None:
    found = logratios_of(FOUR)
    assert [found[name].tolist() for name in LOGRATIOS] == [[2.0, 0.0], [-1.0, 0.5]]
    assert set(POLICY + OPPONENT) == set(FOUR)


def test_the_loss_gets_its_own_settings_without_their_prefix() -> None:
    """For pairs with (2, -1) and (0, 0.5), the losses are 3 * (-3) + 1 and 3 * 0.5 + 1; other settings and tensors are
    ignored.
    """
    values = {"mine_scale": 3.0, "mine_shift": 1.0, "mine_count": 7.0, "beta": 0.1}
    assert MINE({**FOUR, "real_lengths": torch.ones(2)}, values).tolist() == [-8.0, 2.5]
    assert MINE(logratios_of(FOUR), values).tolist() == [-8.0, 2.5]
    assert float(MINE.measure(FOUR, values)["largest"]) == 6.0
    assert THREE.measure(FOUR, values) == {}


def test_without_proto_responses_other_settings_hold() -> None:
    own = {"mine_shift": 2.0}
    proto = {**FOUR, "policy_proto_logps": torch.tensor([-10.0, 0.0])}
    assert THREE(proto, own).tolist() == [-9.0, -2.0]
    assert THREE({**FOUR, "policy_proto_logps": None}, own).tolist() == [-1.0, -4.0]
    assert THREE.weighs_proto(own)
    assert not THREE.weighs_proto({"mine_shift": 0.0})  # then they would have no effect
    assert not MINE.weighs_proto(own)


def test_settings_that_are_left_out_are_the_published_ones() -> None:
    found = MINE.resolve({"mine_scale": "0.25", "mine_order": 3, "beta": 1.0}, num_generations=4)
    assert found == OwnSettings(0.25, 4.0, [3.0], "up", 0.0)
    assert MINE.own({"mine_scale": 1.0, "beta": 2.0}) == OwnSettings(1.0)


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("mine_scale", 0.0, ("positive",)),
        ("mine_scale", -1.0, ("positive",)),
        ("mine_scale", math.nan, ("positive",)),
        ("mine_scale", math.inf, ("inf",)),
        ("mine_scale", "much", ("'much'", "number")),
        ("mine_shift", -1.5, (-1.5, "at least -1")),
        ("mine_shift", -math.inf, ("at least -1",)),
        ("mine_order", ["a"], ("['a']", "number")),
    ],
)
def test_a_setting_out_of_its_range_is_named(name: str, value: Any, parts: tuple[object, ...]) -> None:
    with refused(RecipeError, f"`{name}`", *parts):
        MINE.resolve({name: value}, 1)


def test_a_setting_may_be_at_the_end_of_its_range() -> None:
    assert MINE.resolve({"mine_shift": -1.0}, 1).mine_shift == -1.0


def test_by_default_no_setting_depends_on_the_iteration() -> None:
    own = MINE.own({})
    assert (MINE.at(own, 2, 3, None), MINE.asks_for_gap(own), MINE.depends_on_length(own)) == ({}, "", False)
    assert list(MINE.against_length(own, 1, True)) == []
