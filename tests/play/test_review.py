"""A run lets people compare its answers, waits for their votes if asked to, and goes on, falls back or stops by them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tiny
from messages import names, refused
from reviewed import choices_for, votes_file
from runs import build, entry, journal
from spin_trl.errors import PausedError, RecipeError, RunDirectoryError
from spin_trl.play.gate import settle, settle_generations
from spin_trl.play.loop import SelfPlay
from spin_trl.play.open import reopen
from spin_trl.play.phases import in_this_process
from spin_trl.play.review import check_votes, make_page, write_review
from spin_trl.report.record import read_record
from spin_trl.report.review.assignment import Assignment, read_assignment
from spin_trl.report.review.stored import stored_data
from spin_trl.report.review.votes import read_votes, record
from spin_trl.report.write import gather
from spin_trl.run.directory import RunDirectory
from spin_trl.run.journal import UNTRAINED, Step
from spin_trl.run.stage import Stage

HELD_OUT = 25


def session(model: Path, run_dir: str | Path = "run", **settings: Any) -> SelfPlay:
    """Build a run of two iterations, each of which waits for people's votes, with 25 held-out prompts."""
    settings = {
        "train_dataset": tiny.sft(2 * HELD_OUT),
        "held_out_fraction": 0.5,
        "human_review": "every 1",
        "review_gate": "wait",
        "on_regression": "fall_back",
        "stop_at_plateau": False,
        **settings,
    }
    return build(model, run_dir, **settings)


@pytest.fixture(scope="module")
def waiting(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that waits for votes on its first iteration."""
    folder = tmp_path_factory.mktemp("a run") / "run"
    result = session(llama_folder, folder).run()
    assert result.paused is not None
    assert names(result.paused, "iteration 0", "review_gate", "spin-trl review", "spin-trl run", "review.html")
    return folder


@pytest.fixture
def run_dir(waiting: Path, tmp_path: Path) -> Path:
    """Return a copy of it, in the current folder."""
    shutil.copytree(waiting, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def page_of(directory: Path, iteration: int = 0) -> Assignment:
    found = read_assignment(RunDirectory(directory).assignment(Stage.of(iteration)))
    assert found is not None
    return found


def vote(directory: Path, won: int, lost: int, iteration: int = 0, reviewer: str = "Ann") -> None:
    """Record votes on the first pairs of an iteration's page, as `spin-trl review` does with a file."""
    assignment = page_of(directory, iteration)
    path = votes_file(directory.parent / "votes.json", assignment, choices_for(assignment, won, lost), reviewer)
    (submission,) = read_votes([path], RunDirectory(directory))
    record(RunDirectory(directory), submission)


def decision(directory: Path, iteration: int) -> dict[str, Any]:
    """Return the gate's newest decision on an iteration."""
    return [one for one in journal(directory) if (one["phase"], one["stage"]) == ("gate", Stage.of(iteration))][-1]


def test_the_page_shows_both_models_answers_to_held_out_prompts(waiting: Path) -> None:
    assignment, directory = page_of(waiting), RunDirectory(waiting)
    assert assignment.answers == "sampled"
    assert 20 <= len(assignment.pairs) == HELD_OUT - assignment.identical["previous"]
    data = stored_data(directory.review_page("iteration-0"), assignment)
    assert data is not None
    samples = {
        stage: {
            row["key"]: row["generated"]
            for row in map(json.loads, directory.samples(stage).read_text(encoding="utf-8").splitlines())
        }
        for stage in ("start", "iteration-0")
    }
    for pair, shown in zip(assignment.pairs, data["pairs"], strict=True):
        other = "right" if pair.side == "left" else "left"
        assert len(shown[pair.side]["text"]) >= len(samples["iteration-0"][pair.key].strip())
        assert shown[other]["text"] != shown[pair.side]["text"]


def test_a_run_waits_as_often_as_it_is_run_and_a_phase_by_hand_refuses(run_dir: Path, llama_folder: Path) -> None:
    before, page = page_of(run_dir), (run_dir / "iteration-0" / "review.html").read_bytes()
    assert session(llama_folder, run_dir).run().paused is not None
    assert page_of(run_dir) == before
    assert (run_dir / "iteration-0" / "review.html").read_bytes() == page
    with refused(PausedError, "iteration 0", "spin-trl review"):
        session(llama_folder, run_dir).run_phase("generate", 1)
    assert not (run_dir / "iteration-1" / "generations").exists()
    assert entry("evaluate", "iteration-0", run_dir)["held_out"] == HELD_OUT
    assert (run_dir / "report.html").exists()


def test_an_iteration_that_people_find_worse_is_fallen_back_from(run_dir: Path, llama_folder: Path) -> None:
    """The next iteration starts from the start again, and waits for votes itself; in the end the start is delivered."""
    vote(run_dir, won=1, lost=19)
    result = session(llama_folder, run_dir).run()
    assert names(str(result.paused), "iteration 1")
    found = decision(run_dir, 0)
    assert (found["decision"], found["opponent"], found["best"]) == ("fell back", "start", "start")
    assert found["rejected"]
    assert entry("train", "iteration-1", run_dir) is not None
    vote(run_dir, won=0, lost=20, iteration=1)
    result = session(llama_folder, run_dir).run()
    assert (result.paused, result.best_stage) == (None, "start")
    assert json.loads((run_dir / "best.json").read_text(encoding="utf-8"))["stage"] == "start"
    assert "rejected" in (run_dir / "table.txt").read_text(
        encoding="utf-8"
    )  # their figures are better than the start's
    read = read_record(RunDirectory(run_dir))
    assert read.rejected == {"iteration-0", "iteration-1"}
    page = gather(RunDirectory(run_dir), read)
    assert [row.label for row in page["reviews"].rows] == [
        "iteration\u00a00 against the previous model",
        "iteration\u00a01 against the previous model",
    ]
    assert sum(names(text, "review_min_win_rate", "20 pairs") for text in page["remarks"]) == 2


def test_an_iteration_that_people_like_is_gone_on_from(run_dir: Path, llama_folder: Path) -> None:
    vote(run_dir, won=15, lost=5)
    assert names(str(session(llama_folder, run_dir).run().paused), "iteration 1")
    assert (decision(run_dir, 0)["opponent"], decision(run_dir, 0)["rejected"]) == ("iteration-0", False)
    table = (run_dir / "table.txt").read_text(encoding="utf-8")
    assert names(table, "people %", "75.0")


def test_a_run_can_stop_by_people_s_votes(run_dir: Path, llama_folder: Path) -> None:
    vote(run_dir, won=0, lost=20)
    result = session(llama_folder, run_dir, on_regression="stop").run()
    assert result.paused is None
    assert names(str(result.stopped), "on_regression: stop", "0.0 %")
    assert result.best_stage == "start"
    assert not (run_dir / "iteration-1").exists()


def test_few_votes_are_enough_to_go_on_and_decide_nothing(run_dir: Path, llama_folder: Path) -> None:
    vote(run_dir, won=0, lost=5)
    assert names(str(session(llama_folder, run_dir).run().paused), "iteration 1")
    assert decision(run_dir, 0)["opponent"] == "iteration-0"


def test_a_run_that_only_warns_goes_on_and_warns_when_there_are_votes(
    run_dir: Path, llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vote(run_dir, won=0, lost=20)
    result = session(llama_folder, run_dir, review_gate="warn").run()
    assert result.paused is None
    assert names(capsys.readouterr().out, "review_min_win_rate", "0.0 %")
    assert decision(run_dir, 0)["opponent"] == "iteration-0"
    assert (run_dir / "iteration-1" / "review.html").exists()


def test_votes_that_come_after_the_next_iteration_has_begun_change_nothing(run_dir: Path, llama_folder: Path) -> None:
    vote(run_dir, won=0, lost=5)
    session(llama_folder, run_dir).run()
    vote(run_dir, won=0, lost=25, reviewer="Bob")
    result = session(llama_folder, run_dir, on_regression="stop").run()
    assert names(str(result.paused), "iteration 1")
    assert (decision(run_dir, 0)["opponent"], decision(run_dir, 0)["rejected"]) == ("iteration-0", False)


def test_another_gate_is_heard_before_the_best_model_is_chosen(run_dir: Path, llama_folder: Path) -> None:
    """A run that ended with a rejected iteration delivers it as soon as votes decide nothing any more."""
    settings: dict[str, Any] = {"num_iterations": 1, "metric_for_best_iteration": "nll"}
    vote(run_dir, won=0, lost=20)
    assert session(llama_folder, run_dir, **settings).run().best_stage == "start"
    assert session(llama_folder, run_dir, **settings, review_gate="warn").run().best_stage == "iteration-0"
    assert not decision(run_dir, 0)["rejected"]


def test_an_iteration_that_becomes_the_last_by_other_settings_is_reviewed(run_dir: Path, llama_folder: Path) -> None:
    for name in ("review.html", "review.json"):
        (run_dir / "iteration-0" / name).unlink()
    settings: dict[str, Any] = {
        "human_review": "last",
        "review_gate": "warn",
        "degeneration_stop": {"truncated": 0.01},
    }
    assert session(llama_folder, run_dir, **settings).run().stopped is not None
    assert page_of(run_dir).pairs
    assert (run_dir / "iteration-0" / "review.html").exists()


def test_votes_count_if_the_next_iteration_is_not_trained(run_dir: Path) -> None:
    run = reopen(str(run_dir))
    run.journal.append(Step.GENERATE, "iteration-1", opponent="iteration-0", lr_scale=1.0)
    run.journal.append(Step.GATE, "iteration-1", decision=UNTRAINED, best="iteration-0", opponent="iteration-0",
                       lr_scale=1.0, reason="nothing to learn")  # fmt: skip
    with refused(PausedError, "iteration 0", "spin-trl review"):
        check_votes(run, 0)
    vote(run_dir, won=0, lost=20)
    check_votes(run, 0)
    verdict, is_new = settle(run, 0)
    assert (verdict.rejected, verdict.best, verdict.opponent, is_new) == (True, "start", "iteration-0", True)
    assert decision(run_dir, 0)["rejected"]
    assert not settle(run, 0)[1]


@pytest.mark.slow
def test_a_run_that_ends_before_an_iteration_is_trained_waits_for_votes_on_the_one_before(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the generations of iteration 1 leave nothing to learn, so that iteration 0 is the last, and reviewed."""

    def settled(run: Any, iteration: int) -> str | None:
        monkeypatch.setattr(run.play, "identical_stop", 0.0 if iteration else 1.0)
        return settle_generations(run, iteration)

    judged: list[int] = []
    monkeypatch.setattr("spin_trl.play.generate._identical", lambda *of: {"responses": 25, "identical": 5})
    for module in ("loop", "phases"):
        monkeypatch.setattr(f"spin_trl.play.{module}.settle_generations", settled)

    def judges(run: Any, iteration: int) -> None:
        if run.directory.review_page(Stage.of(iteration)).exists():
            judged.append(iteration)

    monkeypatch.setattr("spin_trl.play.review.let_judge_review", judges)
    result = session(llama_folder, tmp_path / "run", human_review="last").run()
    assert names(str(result.paused), "iteration 0", "spin-trl review")
    assert judged == [0]
    vote(tmp_path / "run", won=0, lost=20)
    result = session(llama_folder, tmp_path / "run", human_review="last").run()
    assert (result.paused, result.best_stage) == (None, "start")
    assert names(str(result.stopped), "identical_stop")


@pytest.mark.parametrize("phase", ["dpo", "test"])
def test_the_last_phases_by_hand_wait_for_votes_too(run_dir: Path, phase: str) -> None:
    run = reopen(str(run_dir))
    run.play.num_iterations = 1
    with refused(PausedError, "iteration 0", "spin-trl review"):
        in_this_process(run, phase, 0)


def test_a_page_without_its_assignment_is_written_again(run_dir: Path) -> None:
    before = page_of(run_dir)
    RunDirectory(run_dir).assignment(Stage.of(0)).unlink()
    write_review(reopen(str(run_dir)), 0)
    assert {pair.key for pair in page_of(run_dir).pairs} == {pair.key for pair in before.pairs}
    assert page_of(run_dir) != before


def test_a_page_that_is_gone_is_written_again_with_the_same_sides(run_dir: Path) -> None:
    page = run_dir / "iteration-0" / "review.html"
    before, assignment = page.read_bytes(), page_of(run_dir)
    page.unlink()
    assert make_page(reopen(str(run_dir)), Stage.of(0)) == assignment
    assert page.read_bytes() == before
    samples = run_dir / "iteration-0" / "samples.jsonl"
    rows = [json.loads(line) | {"generated": "changed"} for line in samples.read_text(encoding="utf-8").splitlines()]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with refused(RunDirectoryError, "iteration 0", "review.json"):
        make_page(reopen(str(run_dir)), Stage.of(0))
    samples.unlink()
    with refused(RunDirectoryError, "iteration 0", run_dir):
        make_page(reopen(str(run_dir)), Stage.of(0))


def test_greedy_answers_are_compared_if_asked_for(llama_folder: Path, tmp_path: Path) -> None:
    session(llama_folder, tmp_path / "run", review_answers="greedy", num_iterations=1, review_gate="off").run()
    assignment, directory = page_of(tmp_path / "run"), RunDirectory(tmp_path / "run")
    assert assignment.answers == "greedy"
    data = stored_data(directory.review_page("iteration-0"), assignment)
    assert data is not None
    assert data["pairs"]


def test_without_greedy_answers_there_are_none_to_compare(run_dir: Path) -> None:
    run = reopen(str(run_dir))
    run.play.review_answers = "greedy"
    RunDirectory(run_dir).assignment(Stage.of(0)).unlink()
    with refused(RunDirectoryError, "evaluate_greedy", "review_answers: sampled"):
        make_page(run, Stage.of(0))


def test_without_held_out_prompts_there_is_nothing_to_review(llama_folder: Path) -> None:
    with refused(RecipeError, "human_review", "held_out_fraction"):
        session(llama_folder, held_out_fraction=0.0).run()
