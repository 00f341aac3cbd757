"""Bounds are read from `bounds.yaml` in interval notation."""

import math
from typing import get_args, get_type_hints

import pytest
import torch._inductor

from messages import names
from spin_trl import SelfPlayConfig, SPINConfig
from spin_trl.config import bounds
from spin_trl.config.bounds import OF_RECIPES, POSSIBLE, TRAINABLE, TRL_SETTINGS, USUAL
from spin_trl.config.checks import Bounds, problem
from spin_trl.config.recipe import kinds_of_settings


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ("[0, 1]", [0, 0.5, 1], [-1e-9, 1 + 1e-9]),
        ("(0, 1)", [1e-9, 1 - 1e-9], [0, 1]),
        ("[0, 0.5)", [0, 0.499], [0.5]),
        ("[1, inf)", [1, 1e300], [0, math.inf, math.nan]),
        (["[0.1, 2]", "a reason", 0], [0, 0.1, 2], [0.05, 2.1]),
    ],
)
def test_an_interval_is_read_as_mathematicians_write_it(
    written: str | list[str | float], inside: list[float], outside: list[float]
) -> None:
    """A square bracket includes its number, a round one excludes it; single numbers are allowed, too."""
    found = bounds._bounds(written)
    assert [value in found for value in inside] == [True] * len(inside)
    assert [value in found for value in outside] == [False] * len(outside)


def test_a_reason_is_part_of_the_message() -> None:
    assert bounds._bounds(["(0, inf)", "with 0 nothing is learned"]) == Bounds(
        0, low_open=True, high_open=True, why="with 0 nothing is learned"
    )
    assert names(str(problem("beta", 0, TRAINABLE["beta"])), "`beta`", 0, "above 0", TRAINABLE["beta"].why)


@pytest.mark.parametrize(
    ("kind", "name", "last_inside", "first_outside"),
    [
        (POSSIBLE, "per_device_train_batch_size", 1, 0),
        (POSSIBLE, "learning_rate", 0.0, -1e-12),
        (POSSIBLE, "num_train_epochs", 1e6, 1e308),  # counted in steps, the latter is infinite
        (POSSIBLE, "seed", 2**32 - 1, 2**32),  # numpy's seeds have 32 bits
        (TRAINABLE, "label_smoothing", 0.49, 0.5),  # half of the pairs reversed: nothing to learn
        (TRAINABLE, "max_length", 2, 1),  # a prompt and a response need a token each
        (OF_RECIPES, "learning_rate", 1e-12, 0.0),
        (OF_RECIPES, "lora_dropout", 0.99, 1.0),
        (USUAL, "temperature", 0.0, 0.05),  # greedy is usual; nearly greedy is not
        (USUAL, "beta", 5.0, 11.0),  # SPIN's last iteration has 5 (arXiv 2401.01335, appendix B)
        (USUAL, "learning_rate", 5e-7, 0.02),
    ],
)
def test_where_settings_end(kind: dict[str, Bounds], name: str, last_inside: float, first_outside: float) -> None:
    assert last_inside in kind[name]
    assert first_outside not in kind[name]


def test_what_is_impossible_is_not_trainable_either() -> None:
    assert POSSIBLE.keys() <= TRAINABLE.keys()
    assert TRAINABLE["num_train_epochs"] != POSSIBLE["num_train_epochs"]  # 0 is valid: Trainer then does nothing


def test_the_modes_of_torch_compile_are_those_of_torch() -> None:
    """torch refuses an unknown mode only in the first training step, with a bare RuntimeError."""
    assert set(TRL_SETTINGS["torch_compile_mode"]) == set(torch._inductor.list_mode_options())


def test_every_bound_is_of_a_setting_that_a_recipe_may_have() -> None:
    """Otherwise, a name that TRL drops, or a typo in the file, would check nothing."""
    assert {*TRL_SETTINGS, *OF_RECIPES, *USUAL} <= kinds_of_settings().keys()


def test_what_our_own_fields_declare_stands_there_alone() -> None:
    """A setting's bounds are declared in one place: for this package's own settings, in the field."""
    # Once a parser has read the fields, they no longer carry their bounds.
    hints = {**get_type_hints(SelfPlayConfig, include_extras=True), **get_type_hints(SPINConfig, include_extras=True)}
    theirs = {name for name, kind in hints.items() if any(isinstance(one, Bounds) for one in get_args(kind))}
    assert theirs
    assert not theirs & {*TRAINABLE, *OF_RECIPES}


def test_defaults_are_usual() -> None:
    args = SPINConfig("out", use_cpu=True, bf16=False)
    assert [name for name, allowed in {**TRAINABLE, **USUAL}.items() if hasattr(args, name)
            and getattr(args, name) is not None and getattr(args, name) not in allowed] == []  # fmt: skip
