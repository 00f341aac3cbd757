"""A stage is its own name, together with the arm and iteration that the name encodes."""

import copy
import json
import pickle

import pytest

from messages import refused
from spin_trl.run.stage import BASE, START, Stage, arm_in_words, arm_name, smoothing_of_arm, up_to


@pytest.mark.parametrize(
    ("name", "arm", "iteration", "label"),
    [
        ("base", "base", -2, "base"),
        ("start", "self-play", -1, "start"),
        ("iteration-0", "self-play", 0, "iteration 0"),
        ("iteration-12", "self-play", 12, "iteration 12"),
        ("baseline/sft/iteration-3", "sft", 3, "plain SFT, iteration 3"),
        ("baseline/sft-smoothing-0.1/iteration-0", "sft-smoothing-0.1", 0, "smoothed SFT (0.1), iteration 0"),
    ],
)
def test_a_name_says_which_model_it_is(name: str, arm: str, iteration: int, label: str) -> None:
    stage = Stage(name)
    assert (stage.arm, stage.iteration, stage.label) == (arm, iteration, label)
    assert stage == name == f"{stage}"
    assert Stage.of(iteration, arm) == stage
    assert stage.is_start is (name == "start")
    assert stage.is_of_baseline is name.startswith("baseline/")


@pytest.mark.parametrize(
    ("origin", "iteration", "label"),
    [("base", 0, "DPO on the base"), ("start", 0, "DPO on the start"), ("iteration-2", 3, "DPO on iteration 2")],
)
def test_dpo_counts_as_one_more_iteration_on_its_origin(origin: str, iteration: int, label: str) -> None:
    """On the base it counts as the first: no stage that was trained in a run comes before its start."""
    stage = Stage.after_dpo(origin)
    assert (stage, stage.arm, stage.iteration, stage.label) == (f"dpo/{origin}", "dpo", iteration, label)
    assert stage.origin == stage.before == origin
    assert not stage.is_start
    assert not stage.is_base
    assert Stage(origin).origin == origin


@pytest.mark.parametrize(
    "name",
    [
        *("", "iteration-", "iteration--1", "baseline/iteration-0", "data", "start/x", "iteration-0 "),
        *("dpo", "dpo/", "dpo/dpo/start", "dpo/baseline/sft/iteration-0"),
    ],
)
def test_another_name_is_no_stage(name: str) -> None:
    with refused(ValueError, repr(name), "stage"):
        Stage(name)


def test_every_arm_begins_at_the_start() -> None:
    assert Stage.of(0).before is START
    assert Stage.of(0, "sft").before == "start"
    assert Stage.of(2, "sft").before == "baseline/sft/iteration-1"
    assert up_to(1) == ["start", "iteration-0", "iteration-1"]
    assert up_to(-1) == [START]


def test_the_base_comes_before_the_start_of_every_arm() -> None:
    """It is the given model, if the run trains its start from it."""
    assert Stage.of(-2) is START.before is BASE
    assert BASE.is_base
    assert not START.is_base
    assert Stage.of(2, "sft-best").before is BASE


def test_a_stage_is_written_and_copied_as_its_name() -> None:
    stage = Stage.of(2, "sft")
    assert json.dumps({stage: stage}) == '{"baseline/sft/iteration-2": "baseline/sft/iteration-2"}'
    for twin in (pickle.loads(pickle.dumps(stage)), copy.deepcopy(stage)):
        assert (twin, twin.arm, twin.iteration) == (stage, "sft", 2)


def test_an_arm_is_named_after_its_smoothing() -> None:
    assert (arm_name(0.0), arm_name(0.05)) == ("sft", "sft-smoothing-0.05")
    assert [arm_in_words(arm) for arm in ("sft", "sft-smoothing-0.05", "sft-dft", "sft-best", "own")] == [
        "plain SFT",
        "smoothed SFT (0.05)",
        "SFT with DFT's loss",
        "best SFT from the base",
        "own",
    ]
    assert [smoothing_of_arm(arm) for arm in ("sft", "sft-smoothing-0.05", "sft-dft")] == [0, 0.05, 0]
