"""What the runs of a comparison train with DPO on top is what its arms ask for, and the same for all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import runs
import tiny
from messages import names, refused
from spin_trl.errors import RecipeError
from spin_trl.play.comparison.arms import Arm
from spin_trl.play.comparison.compare import Comparison
from spin_trl.play.comparison.compare_dpo import ask_for_dpo, check_chains, check_equal_dpo
from spin_trl.run.directory import RunDirectory
from spin_trl.run.recipe import read_recipe


def test_dpo_trains_what_the_arms_ask_for(tmp_path: Path, llama_folder: Path) -> None:
    """In the run of the self-play arm; DPO on the start in the first one. An arm may be spelt in two ways, and a run that no
    arm ends with DPO in has none of its settings."""
    pairs = str(tiny.write_jsonl(tmp_path / "pairs.jsonl", tiny.preference(4)))
    recipe = runs.recipe(
        tmp_path / "r", llama_folder, start="sft", dpo_name=pairs, dpo_beta=0.3, then_dpo="iteration-0"
    )

    def asked(*arms: str, overrides: Sequence[str] = (), **more: Any) -> list[tuple[list[str] | None, str | None]]:
        found = Comparison(str(recipe), list(overrides), list(arms), **more)
        recipes = [found.recipes[name, 42] for name in (one.name for one in found.arms)]
        return [(one.play.then_dpo, one.data.dpo_name) for one in recipes]

    none = (None, None)
    assert asked("space", "iris > dpo") == [none, (["best"], pairs)]
    assert asked("space", "sft > dpo", "sft>iris>dpo") == [(["start"], pairs), (["best"], pairs)]
    assert asked("sft > spin > dpo", "start > dpo") == [(["start", "best"], pairs)]
    assert asked("space", "space > dpo", overrides=["--then_dpo", "last"]) == [(["last"], pairs)]
    own = {"space": {"optim": "sgd"}}  # harmless where all of DPO is in one run, or has its own
    assert asked("space > dpo", "start > dpo", arm_settings=own) == [(["start", "best"], pairs)]
    more = ["--dpo_optim", "sgd"]
    assert asked("iris > dpo", "space > dpo", overrides=more, arm_settings=own) == [(["best"], pairs)] * 2
    found = Comparison(str(recipe), [], ["sft", "sft > dpo", "space", "start>dpo", "sft > space > dpo", "space"])
    assert [one.name for one in (*found.arms, *found.supervised, *found.with_dpo)] == [
        "space", "sft", "sft > dpo", "sft > space > dpo"
    ]  # fmt: skip
    assert found.recipes["space", 42].play.dpo_args == {"beta": 0.3}


def test_what_was_trained_before_stays_in_a_run(tmp_path: Path, llama_folder: Path) -> None:
    """An earlier call may have had more arms. The settings of DPO stay, so that the run is the same; else they go."""
    read = read_recipe(str(runs.recipe(tmp_path / "r", llama_folder, dpo_name="p.jsonl", dpo_max=5, dpo_beta=0.3)))
    directory = RunDirectory(tmp_path / "run")
    for stage in ("iteration-0", "dpo/iteration-0"):
        directory.stage(stage).mkdir(parents=True)
    ask_for_dpo(read, [], directory)
    assert (read.play.then_dpo, read.play.dpo_args, read.data.dpo_name) == (["iteration-0"], {"beta": 0.3}, "p.jsonl")
    ask_for_dpo(read, [], RunDirectory(tmp_path / "new"))
    assert (read.play.then_dpo, read.play.dpo_args, read.play.dpo_max, read.data.dpo_name) == (None, None, None, None)


@pytest.mark.parametrize(
    ("name", "instead"), [("sft > dpo", "start > dpo"), ("sft>spin", "sigmoid"), ("sft > space > dpo", "space > dpo")]
)
def test_a_chain_of_another_recipe_says_what_it_is_here(
    name: str, instead: str, tmp_path: Path, llama_folder: Path
) -> None:
    arms = {name: Arm.parse(name)}
    path = str(runs.recipe(tmp_path, llama_folder, dpo_name="p.jsonl"))
    with refused(RecipeError, repr(name), "`start: sft`", repr(instead)):
        check_chains(arms, read_recipe(path))
    check_chains(arms, read_recipe(path, ["--start", "sft"]))


def test_settings_of_a_loss_and_of_its_pace_are_not_dpos(tmp_path: Path, llama_folder: Path) -> None:
    read = read_recipe(str(runs.recipe(tmp_path, llama_folder, dpo_name="p.jsonl")))
    players = {"space", "iris"}
    check_equal_dpo(players, {"space": {"learning_rate": 1e-3, "beta": 2, "lr_scheduler_type": "linear"}}, read)
    with refused(RecipeError, "'weight_decay'", "'iris'", "`dpo_weight_decay`") as caught:
        check_equal_dpo(players, {"iris": {"learning_rate": 1e-3, "weight_decay": 0.1}}, read)
    assert names(str(caught.value), "`--arm_settings`")
    check_equal_dpo({"iris"}, {"iris": {"weight_decay": 0.1}}, read)
