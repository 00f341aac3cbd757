"""Every phase uses the same state of a run: settings by iteration, models, journal, and stages by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from messages import names, refused
from runs import build
from spin_trl.errors import DataError, RunDirectoryError
from spin_trl.run.journal import Step
from spin_trl.run.run import Run, find_stage, stages_with_model


@pytest.fixture
def run(llama_folder: Path) -> Run:
    """Return a run with eleven iterations and a baseline arm; the model of iteration 3 was removed."""
    found = build(llama_folder).state
    found.directory.ownership.claim()
    for stage in (*(f"iteration-{number}" for number in range(11)), "baseline/sft/iteration-0"):
        folder = found.directory.own(stage) / "model"
        folder.mkdir(parents=True)
        if stage != "iteration-3":
            (folder / "model.safetensors").touch()
    return found


def test_stages_come_in_the_order_of_iterations(run: Run) -> None:
    """The start comes first, arms are grouped, and 10 follows 9; only stages with a model are listed."""
    iterations = [f"iteration-{number}" for number in (0, 1, 2, 4, 5, 6, 7, 8, 9, 10)]
    assert stages_with_model(run) == ["start", *iterations, "baseline/sft/iteration-0"]


def test_the_best_is_found_where_there_is_one(run: Run) -> None:
    with refused(RunDirectoryError, run.directory.path, "best iteration", "iteration-10"):
        find_stage(run, "best")
    run.directory.own("best.json").write_text(json.dumps({"stage": "iteration-4"}), encoding="utf-8")
    assert find_stage(run, "best") == "iteration-4"
    assert find_stage(run, "iteration-10") == "iteration-10"


def test_the_last_is_the_newest_iteration_with_a_model(run: Run, llama_folder: Path) -> None:
    """A baseline arm's does not count; without an iteration, it is the start."""
    assert find_stage(run, "last") == "iteration-10"
    (run.directory.model("iteration-10") / "model.safetensors").unlink()
    assert find_stage(run, "last") == "iteration-9"
    assert find_stage(build(llama_folder, "another").state, "last") == "start"
    with refused(RunDirectoryError, "last iteration", "None"):
        find_stage(build(None, "from scratch").state, "last")


def test_a_stage_without_a_model_is_answered_with_those_that_have_one(run: Run) -> None:
    """Likely typos get a suggestion; the name of an existing stage is not a typo."""
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


def test_an_iteration_has_its_own_values_seed_and_folder(llama_folder: Path) -> None:
    """The run's own settings are unchanged."""
    run = build(llama_folder, per_iteration={"learning_rate": [1e-3, 1e-4], "beta": [0.1, 0.5]}, seed=7).state
    args = run.iteration_args(1)
    assert (args.learning_rate, args.beta, args.seed) == (1e-4, 0.5, 8)
    assert Path(str(args.output_dir)) == run.directory.path / "iteration-1/train"
    assert args.run_name == "run-iteration-1"
    assert (run.args.seed, run.args.beta) == (7, 0.1)
    assert run.iteration_args(0).seed == 7


def test_after_a_fall_back_the_rate_is_what_the_gate_has_left_of_it(llama_folder: Path) -> None:
    run = build(llama_folder, learning_rate=1e-3).state
    run.directory.claim("continue")
    run.record(Step.GATE, "iteration-0", decision="fell back", opponent="start", lr_scale=0.25)
    assert run.iteration_args(1).learning_rate == 2.5e-4
    assert run.iteration_args(0).learning_rate == 1e-3
    assert run.decisions.opponent(1) == "start"
    assert run.model_of(run.decisions.opponent(1)) == str(llama_folder)
    assert run.model_of("iteration-0") == str(run.directory.path / "iteration-0/model")


def test_an_iteration_has_begun_with_its_first_answer_or_its_training(llama_folder: Path) -> None:
    """From then on, the model that it starts from is fixed."""
    run = build(llama_folder).state
    run.directory.claim("continue")
    assert not run.has_begun(0)
    run.directory.own("iteration-0")
    assert not run.has_begun(0)
    run.directory.generations("iteration-0").mkdir(parents=True)
    assert run.has_begun(0)
    assert not run.has_begun(1)
    run.record(Step.TRAIN, "iteration-1")
    assert run.has_begun(1)


def test_the_journal_says_on_what_a_step_was_computed(llama_folder: Path) -> None:
    """This applies to steps with a duration."""
    run = build(llama_folder).state
    run.directory.claim("continue")
    run.record(Step.EVALUATE, "start", seconds=2.0)
    run.record(Step.TRACK, "start")
    first, second = run.journal.entries()
    assert (first["device"], first["processes"], first["seconds"]) == ("CPU", 1, 2.0)
    assert not {"device", "processes"} & second.keys()
    assert run.done(Step.EVALUATE, "start") == first
    assert run.done(Step.EVALUATE, "iteration-0") is None


def test_rows_that_were_not_prepared_say_what_prepares_them(llama_folder: Path) -> None:
    run = build(llama_folder).state
    with refused(DataError, run.directory.train_rows, "`spin-trl run`"):
        run.rows()
    run.directory.held_out_rows.mkdir(parents=True)
    assert len(run.rows(held_out=True)) == 0
    assert {"key", "prompt_ids", "real_ids"} <= set(run.rows(held_out=True).column_names)


def test_trackers_and_arms_are_named_after_the_run(llama_folder: Path) -> None:
    run = build(llama_folder, "runs/mine", baseline="sft", baseline_label_smoothing=[0.0, 0.1]).state
    assert (run.tracker_name, run.arms) == ("mine", ["sft", "sft-smoothing-0.1"])
    assert build(llama_folder, run_name="theirs").state.tracker_name == "theirs"
    assert build(llama_folder).state.arms == []
