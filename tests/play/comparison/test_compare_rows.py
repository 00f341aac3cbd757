"""The rows of a comparison are read from the directories of its runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from messages import names
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.play.comparison.arms import Arm
from spin_trl.play.comparison.compare_rows import (
    PlayedArm,
    dpo_arms_in_words,
    figures_after_dpo,
    figures_of_arm,
    figures_on_test,
)
from spin_trl.run.directory import RunDirectory
from spin_trl.run.journal import Journal, Step
from spin_trl.run.stage import Stage

NLLS = {"start": 3.0, "iteration-0": 2.0, "iteration-1": 2.5, "dpo/start": 2.75, "dpo/iteration-0": 1.5}
"""NLL of every stage of a run of two iterations whose first is the best, on the first of two prompts 0.5 more."""


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run that was never played."""
    found = RunDirectory(tmp_path / "run")
    found.ownership.claim()
    found.own("recipe.yaml").write_text(yaml.safe_dump({"num_iterations": 2}), encoding="utf-8")
    journal = Journal(found.own("journal.jsonl"))
    for stage, nll in NLLS.items():
        found.own(stage)
        values = {"nll": {"a": nll + 0.5, "b": nll - 0.5}, "real_tokens": {"a": 1.0, "b": 1.0}}
        for folder in (found.stage(stage), found.measured_on(stage, "test")):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "metrics.json").write_text(json.dumps({"nll": nll}), encoding="utf-8")
        found.values(stage).parent.mkdir(parents=True, exist_ok=True)
        for path in (found.values(stage), found.measured_on(stage, "test") / "values.json"):
            path.write_text(json.dumps(values), encoding="utf-8")
        compute: dict[str, Any] = {} if stage == "start" else {"compute": {"trained": 100, "scored": 10}}
        more = {"preferences": 21, "steps": 6} if stage.startswith("dpo/") else {"steps": 3}
        if compute:
            journal.append(Step.TRAIN, stage, seconds=1.0, **more, **compute)
        journal.append(Step.EVALUATE, stage, seconds=1.0)
    return found


def played(name: str, directory: RunDirectory, seed: int = 42, **settings: Any) -> PlayedArm:
    return PlayedArm(Arm.parse(name), seed, directory, SelfPlayConfig(run_dir=str(directory.path), **settings))


def test_dpo_is_on_what_self_play_delivers(directory: RunDirectory) -> None:
    assert played("space > dpo", directory, then_dpo=["start", "best"]).stage_of_dpo() == "dpo/iteration-0"
    assert played("space > dpo", directory, then_dpo=["last"]).stage_of_dpo() == "dpo/iteration-1"
    assert played("start > dpo", directory, then_dpo=["start", "best"]).stage_of_dpo() == "dpo/start"


def test_the_best_model_of_an_arm_is_the_one_that_is_tested(directory: RunDirectory) -> None:
    found = {name: played(name, directory).finalist() for name in ("space", "space > dpo", "start > dpo", "sft")}
    stages = {name: None if stage is None else stage.name for name, stage in found.items()}
    assert stages == {
        "space": "iteration-0",
        "space > dpo": "dpo/iteration-0",
        "start > dpo": "dpo/start",
        "sft": None,
    }
    (row,) = figures_on_test("space > dpo", found["space > dpo"], 42, {"_vs_dpo": found["start > dpo"]})
    assert (row.figures["nll"], row.figures["nll_vs_dpo"]) == (1.5, pytest.approx(1.5 - 2.75))
    assert figures_on_test("sft", found["sft"], 42, {}) == []


def test_a_row_after_dpo_has_the_compute_of_its_chain(directory: RunDirectory) -> None:
    """3 x 100 + 10 for an iteration and for DPO each. A given start has cost nothing, and other iterations do not count."""
    values = json.loads(directory.values("dpo/start").read_text(encoding="utf-8"))
    (row,) = figures_after_dpo(played("space > dpo", directory), 2, values, "_vs_dpo")
    assert (row.arm, row.iteration, row.figures["compute"], row.figures["compute_so_far"]) == (
        "space > dpo", 2, 310, 620
    )  # fmt: skip
    assert row.figures["nll_vs_dpo"] == pytest.approx(1.5 - 2.75)
    assert (row.figures["steps"], row.figures["nll_vs_dpo_low"]) == (6, pytest.approx(-1.25))
    (without,) = figures_after_dpo(played("start > dpo", directory), 2, None, "_vs_dpo")
    assert (without.figures["compute_so_far"], "nll_vs_dpo" in without.figures) == (310, False)
    assert figures_of_arm(directory, Stage("dpo/base"), "base > dpo", 2, 42) == []


def test_dpo_says_what_its_rows_have_in_common(directory: RunDirectory) -> None:
    arms = [played(name, directory, seed) for name in ("start > dpo", "space > dpo") for seed in (42, 1042)]
    found, remarks = dpo_arms_in_words(arms, "space", has_supervised=True)
    assert found["space > dpo"] == [
        {"seed": seed, "stage": "dpo/iteration-0", "pairs": 21, "steps": 6} for seed in (42, 1042)
    ]
    assert names(remarks[0], "start > dpo, space > dpo", "21 preference pairs", "6 gradient steps")
    assert names(remarks[2], "space > dpo", "iteration 0", 42, 1042)
    assert names(remarks[3], "space")
    assert len(dpo_arms_in_words(arms, "space", has_supervised=False)[1]) == 3
    last = played("space > dpo", directory, then_dpo=["last"])  # not trained yet
    assert dpo_arms_in_words([last], "space", has_supervised=True) == ({}, [])
