"""Stages of a run are listed and found by the names that users give them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from messages import names, refused
from runs import build
from spin_trl.errors import RunDirectoryError
from spin_trl.run.run import Run, find_stage, stages_with_model


@pytest.fixture
def run(llama_folder: Path) -> Run:
    """A run with eleven iterations and a baseline arm; iteration 3 has no model any more."""
    found = build(llama_folder).state
    found.directory.ownership.claim()
    for stage in (*(f"iteration-{number}" for number in range(11)), "baseline/sft/iteration-0"):
        folder = found.directory.own(stage) / "model"
        folder.mkdir(parents=True)
        if stage != "iteration-3":
            (folder / "model.safetensors").touch()
    return found


def test_stages_come_in_the_order_of_iterations(run: Run) -> None:
    """The start first, arms grouped, and 10 behind 9; only those whose model is there."""
    iterations = [f"iteration-{number}" for number in (0, 1, 2, 4, 5, 6, 7, 8, 9, 10)]
    assert stages_with_model(run) == ["start", *iterations, "baseline/sft/iteration-0"]


def test_the_best_is_found_where_there_is_one(run: Run) -> None:
    with refused(RunDirectoryError, run.directory.path, "best iteration", "iteration-10"):
        find_stage(run, "best")
    run.directory.own("best.json").write_text(json.dumps({"stage": "iteration-4"}), encoding="utf-8")
    assert find_stage(run, "best") == "iteration-4"
    assert find_stage(run, "iteration-10") == "iteration-10"


def test_a_stage_without_a_model_is_answered_with_those_that_have_one(run: Run) -> None:
    """With the nearest name if it looks like a slip; a stage that is there is none."""
    with refused(RunDirectoryError, "'iteraton-2'", "'iteration-2'", "iteration-10"):
        find_stage(run, "iteraton-2")
    with refused(RunDirectoryError, "'iteration-3'", "`keep_iterations`", "iteration-10") as error:
        find_stage(run, "iteration-3")
    assert not names(str(error.value), "'iteration-2'")


def test_a_run_from_scratch_has_no_start_yet() -> None:
    run = build(None).state
    assert stages_with_model(run) == []
    with refused(RunDirectoryError, "'start'", "`keep_iterations`", "None"):
        find_stage(run, "start")
