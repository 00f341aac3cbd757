"""After an iteration, the gate warns, stops the run, or falls back to its best model."""

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

import tiny
from made_up import played, record, stage
from messages import names, refused
from reviewed import entry_of
from runs import answers, build, entry, journal, steps, weights
from spin_trl import SelfPlay
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.errors import DivergedError, RecipeError, RunDirectoryError
from spin_trl.generation.answer import check_logits
from spin_trl.play.gate import Verdict, as_begun, as_played, finalists, judge, plateau
from spin_trl.play.preference import origin_of_dpo
from spin_trl.report.record import RunRecord
from spin_trl.run.journal import Decisions
from spin_trl.run.stage import Stage


def others(first: int, count: int) -> Dataset:
    """Return rows whose prompts differ from the first ones."""
    return tiny.sft(first + count).select(range(first, first + count))


def phases(run_dir: str = "run") -> list[str]:
    """Return the stages that were trained."""
    return [name for phase, name in steps(run_dir) if phase == "train"]


@pytest.mark.slow
def test_bad_answers_are_warned_of_and_the_run_goes_on(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tiny untrained model's answers are truncated; there is one warning about the start and one about each iteration."""
    build(llama_folder, num_iterations=2, max_new_tokens=4).run()
    said = capsys.readouterr().out
    for name in ("start", "iteration-0", "iteration-1"):
        assert said.count(f"{name}: 100 % of the answers were truncated") == 1
    assert phases() == ["iteration-0", "iteration-1"]
    build(llama_folder, num_iterations=2, max_new_tokens=4).run()
    assert "were truncated" not in capsys.readouterr().out


def test_a_run_stops_where_its_answers_have_gone_bad(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It stops after the iteration, whose model is kept; the best is delivered, and the same command stops again at once."""
    settings = {"num_iterations": 3, "max_new_tokens": 4}
    result = build(llama_folder, degeneration_stop='{"truncated": 0.9}', **settings).run()
    assert names(str(result.stopped), "iteration 0", 100, "`degeneration_stop`", 0.9)
    assert result.stopped in capsys.readouterr().out
    assert phases() == ["iteration-0"]
    assert list(result.figures) == ["start", "iteration-0"]
    assert Path(result.best_model).is_dir()
    count = len(journal())
    again = build(llama_folder, degeneration_stop={"truncated": 0.9}, **settings).run()
    assert (again.stopped, again.best_stage) == (result.stopped, result.best_stage)
    assert len(journal()) == count


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_when_it_may(llama_folder: Path) -> None:
    """The thresholds decide when a run stops but do not affect its results, so they may change."""
    settings = {"num_iterations": 2, "max_new_tokens": 4}
    build(llama_folder, degeneration_stop={"truncated": 0.9}, **settings).run()
    result = build(llama_folder, degeneration_stop={"truncated": None}, **settings).run()
    assert result.stopped is None
    assert phases() == ["iteration-0", "iteration-1"]


# ---- the rules, on records of runs that were never played -----------------------------------------------------------


def judged(run: RunRecord, **settings: Any) -> Verdict:
    """Return the verdict on the newest iteration."""
    return judge(run, SelfPlayConfig(**settings), run.iterations[-1].iteration)


def test_warnings_can_be_switched_off() -> None:
    cut = played(2.0, 1.0, truncated=1.0)
    assert [names(warning, "iteration-0", 100) for warning in judged(cut).warnings] == [True]
    assert judged(cut, degeneration_warn={"truncated": None}).warnings == ()


def test_a_start_whose_answers_are_bad_does_not_stop_the_run() -> None:
    """Self-play may improve it, so there is a warning before the first iteration only, and iterations are judged."""
    bad, good = {"truncated": 1.0, "nll": 1.0}, {"truncated": 0.2, "nll": 1.0}
    run = record(
        stage("start", figures=bad), stage("iteration-0", figures=good), metric="nll", greater_is_better=False
    )
    first = judged(run, degeneration_stop={"truncated": 0.9})
    assert (first.decision, first.best, first.opponent, first.stopped) == ("continued", "start", "iteration-0", None)
    assert [names(warning, "start", 100) for warning in first.warnings] == [True]
    run = record(*run.stages, stage("iteration-1", figures=bad), metric="nll", greater_is_better=False)
    second = judged(run, degeneration_stop={"truncated": 0.9})
    assert [names(warning, "iteration-1", 100) for warning in second.warnings] == [True]
    assert names(str(second.stopped), "iteration 1", "`degeneration_stop`", 0.9)


def test_a_collapse_is_said_and_goes_on_where_nothing_else_is_asked_for() -> None:
    """The papers' loops continue as well; even so, the worse iteration is not delivered."""
    verdict = judged(played(3.0, 2.0, 1.0, 4.0))
    assert (verdict.decision, verdict.best, verdict.opponent) == ("continued", "iteration-1", "iteration-2")
    assert [names(warning, "iteration-2", "iteration-1", "nll", 4, 1) for warning in verdict.warnings] == [True]
    assert verdict.stopped is None


@pytest.mark.parametrize(
    ("settings", "decision", "opponent", "lr_scale"),
    [
        ({"on_regression": "stop"}, "stopped", "iteration-2", 1.0),
        ({"on_regression": "fall_back"}, "fell back", "iteration-1", 1.0),
        ({"on_regression": "fall_back", "fall_back_lr_scale": 0.5}, "fell back", "iteration-1", 0.5),
        ({"on_regression": "fall_back", "patience": 1}, "stopped", "iteration-1", 1.0),
        ({"on_regression": "fall_back", "patience": 2}, "fell back", "iteration-1", 1.0),
    ],
)
def test_a_regression_is_followed_by_what_the_settings_ask_for(
    settings: dict[str, Any], decision: str, opponent: str, lr_scale: float
) -> None:
    verdict = judged(played(3.0, 2.0, 1.0, 4.0), **settings)
    assert (verdict.decision, verdict.best) == (decision, "iteration-1")
    assert (verdict.opponent, verdict.lr_scale) == (opponent, lr_scale)
    assert names(str(verdict.reason), "iteration-1")


def test_a_second_fall_back_makes_the_step_smaller_still() -> None:
    """It halves the learning rate that the first fall-back had already halved, as recorded in the journal."""
    fell_back = {
        "phase": "gate",
        "stage": "iteration-1",
        "decision": "fell back",
        "opponent": "iteration-0",
        "lr_scale": 0.5,
    }
    run = dataclasses.replace(played(2.0, 1.0, 4.0, 4.0), journal=[fell_back])
    verdict = judged(run, on_regression="fall_back", fall_back_lr_scale=0.5)
    assert (verdict.opponent, verdict.lr_scale) == ("iteration-0", 0.25)


def test_a_diverged_model_ends_a_run_or_is_fallen_back_from() -> None:
    diverged = played(2.0, 1.0, math.nan)
    verdict = judged(diverged)
    assert (verdict.decision, verdict.best) == ("stopped", "iteration-0")
    assert names(str(verdict.reason), "NaN", "`on_regression: fall_back`", "`fall_back_lr_scale`")
    assert judged(diverged, on_regression="fall_back").opponent == "iteration-0"


def test_patience_ends_a_run_that_no_longer_improves() -> None:
    """The run stops after two iterations without an improvement."""
    assert judged(played(1.0, 1.0), patience=2).stopped is None
    verdict = judged(played(1.0, 1.0, 1.0), patience=2)
    assert names(str(verdict.stopped), "iteration 1", "2 iterations", "start", "`patience`")
    assert judged(played(1.0, 1.0, 1.0), patience=3).stopped is None


def test_patience_counts_from_the_best() -> None:
    verdict = judged(played(3.0, 2.0, 1.0, 1.5), patience=1)
    assert names(str(verdict.stopped), "iteration 2", "iteration-1", "`patience`")
    assert verdict.best == "iteration-1"


def test_an_improvement_that_is_too_small_is_not_delivered() -> None:
    """The iterations gain some tenths of a nat, not ten nats."""
    run = played(3.0, 2.8, 2.5)
    assert judged(run).best == "iteration-1"
    assert (judged(run, min_improvement=10.0).best, judged(run, min_improvement=10.0).decision) == (
        "start",
        "continued",
    )
    assert judged(run, significant_improvement=True).best == "iteration-1"


def test_an_improvement_that_may_be_luck_is_not_delivered_where_significance_is_asked_for() -> None:
    """Each prompt is two nats above or below the mean, and vice versa for the next model: a gain of a tenth of a nat
    is well within the interval, which reaches 0.78 nats to either side (2 * 2 / sqrt(100) * 1.96).
    """
    run = played(3.0, 2.9, spread=2.0)
    assert judged(run).best == "iteration-0"
    assert judged(run, significant_improvement=True).best == "start"
    assert judged(played(3.0, 2.9, prompts=1), significant_improvement=True).best == "start"


def test_a_run_without_held_out_data_has_nothing_to_judge() -> None:
    verdict = judged(played(None, None, None), on_regression="fall_back", patience=1)
    assert verdict == Verdict("continued", best=Stage("iteration-1"), opponent=Stage("iteration-1"))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (
            {"decision": "fell back", "opponent": "iteration-0", "lr_scale": 0.5, "reason": "worse"},
            ("fell back", "worse"),
        ),
        ({"decision": "stopped", "opponent": "iteration-0", "lr_scale": 0.5, "reason": "worse"}, ("continued", None)),
        ({"decision": "improved", "opponent": "iteration-1", "lr_scale": 1.0, "reason": None}, ("improved", None)),
    ],
)
def test_a_decision_that_another_iteration_has_followed_is_history(
    known: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    """Judging again changes neither the next iteration's start nor the reason; a stop that was not obeyed does not count."""
    decisions_so_far = Decisions([{"phase": "gate", "stage": "iteration-1", **known}])
    found = as_played(Verdict("continued", Stage("start"), Stage("iteration-1")), decisions_so_far, 1)
    assert (found.decision, found.reason) == expected
    assert (found.opponent, found.lr_scale) == (known["opponent"], known["lr_scale"])
    stopping = Verdict("stopped", Stage("start"), Stage("iteration-1"), reason="patience")
    assert as_played(stopping, decisions_so_far, 1).stopped == "patience"


@pytest.mark.parametrize(
    ("decision", "judged_opponent", "opponent", "expected"),
    [
        ("fell back", "start", "start", ("fell back", "worse", 0.25)),
        ("improved", "iteration-1", "iteration-1", ("improved", "worse", 0.25)),
        ("continued", "iteration-1", "iteration-0", ("fell back", "Back to iteration-0 as the next opponent.", 0.5)),
        ("fell back", "iteration-0", "iteration-1", ("continued", None, 1.0)),
        ("stopped", "iteration-1", "iteration-0", ("stopped", "worse", 0.5)),
    ],
)
def test_a_decision_that_is_lost_is_made_again_for_the_opponent_that_has_answered(
    decision: str, judged_opponent: str, opponent: str, expected: tuple[str, str | None, float]
) -> None:
    """It is judged again, and kept if that leads to the same opponent; otherwise it follows from the opponent."""
    verdict = Verdict(decision, Stage("start"), Stage(judged_opponent), 0.25, "worse")
    found = as_begun(verdict, 1, Stage(opponent), fallen_back=0.5, lr_scale=1.0)
    assert (found.decision, found.reason, found.lr_scale) == expected
    assert found.opponent == opponent


def test_thresholds_are_checked_when_the_settings_are_made(llama_folder: Path) -> None:
    with refused(RecipeError, "`degeneration_stop`", "'cut'", "'empty', 'truncated'"):
        build(llama_folder, degeneration_stop={"cut": 0.9})
    with refused(RecipeError, "`degeneration_warn`", "'much'", "'empty'", "null"):
        build(llama_folder, degeneration_warn={"empty": "much"})


@pytest.mark.parametrize(
    ("rate", "low", "high", "is_over"),
    [
        (0.51, 0.45, 0.57, True),
        (0.46, 0.42, 0.5, True),
        (0.55, 0.51, 0.59, False),  # better than chance
        (0.4, 0.35, 0.45, False),  # worse than chance: no plateau, whatever the cause
        (0.5, 0.3, 0.7, False),  # unknown
    ],
)
def test_a_plateau_is_a_win_rate_of_one_half_that_is_known(
    rate: float, low: float, high: float, is_over: bool
) -> None:
    figures = {"win_rate": rate, "win_rate_low": low, "win_rate_high": high, "held_out": 200.0}
    assert (plateau(figures) is not None) is is_over
    assert plateau({**figures, "held_out": 2.0}) is None
    assert plateau({}) is None
    assert plateau({"win_rate": 0.5, "held_out": 200.0}) is None


@pytest.mark.slow
def test_the_game_ends_when_the_policy_can_not_tell_real_from_generated(
    llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a learning rate of zero, every log-ratio is zero: all prompts are ties, and two hundred are enough to tell."""
    rows = {"train_dataset": tiny.sft(6), "eval_dataset": others(6, 200)}
    settings = {"num_iterations": 2, "learning_rate": 1e-30, "max_new_tokens": 2, "generation_batch_size": 200}
    result = build(llama_folder, **rows, **settings).run()
    assert names(str(result.stopped), "iteration 0", 50.0, "`stop_at_plateau`")
    assert result.stopped in capsys.readouterr().out
    assert phases() == ["iteration-0"]
    on = build(llama_folder, **rows, **settings, stop_at_plateau=False).run()
    assert on.stopped is None
    assert phases() == ["iteration-0", "iteration-1"]


# ---- the gate: an iteration that is worse than the best ---------------------------------------------------------------

HELD_OUT = 40
COLLAPSE = {"learning_rate": [2e-3, 2e-3, 0.2, 2e-3]}
"""The learning rate of the third iteration is a hundred times too large."""


def collapsing(model: Path, run_dir: str = "run", **settings: Any) -> SelfPlay:
    """Return a run of four iterations, the third of which collapses."""
    rows = {"train_dataset": tiny.sft(24), "eval_dataset": others(24, HELD_OUT)}
    return build(model, run_dir, **rows, **{"num_iterations": 4, "per_iteration": COLLAPSE, **settings})


def decisions(run_dir: str = "run") -> list[str]:
    """Return the gate's decisions, iteration by iteration."""
    return [line["decision"] for line in journal(run_dir) if line["phase"] == "gate"]


def test_an_iteration_that_collapses_is_caught_and_the_one_before_is_delivered(
    llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The delivered model is byte for byte that of a run that ends with the second iteration."""
    result = collapsing(llama_folder, on_regression="stop").run()
    assert result.stopped is not None
    assert names(result.stopped, "iteration 2", "iteration-1", "nll")
    said = capsys.readouterr().out
    assert result.stopped in said
    assert "iteration-2 is worse than iteration-1: nll" in said
    assert decisions() == ["improved", "improved", "stopped"]
    assert (result.best_stage, result.best_model) == ("iteration-1", "run/iteration-1/model")
    assert result.figures["iteration-2"]["nll"] > result.figures["start"]["nll"]
    short = {"learning_rate": COLLAPSE["learning_rate"][:2]}
    other = collapsing(llama_folder, "short", num_iterations=2, per_iteration=short).run()
    assert weights("run/best") == weights(other.best_model)
    assert weights("run/best") == weights("run/iteration-1/model")
    assert weights("run/best") != weights("run/iteration-2/model")


def test_falling_back_starts_the_next_iteration_from_the_best(
    llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The learning rate is smaller. The best model is the opponent: it generates, and the policy starts from it and is
    compared with it.
    """
    result = collapsing(llama_folder, on_regression="fall_back", fall_back_lr_scale=0.5, history=1).run()
    assert decisions() == ["improved", "improved", "fell back", "improved"]
    assert names(capsys.readouterr().out, "iteration-1", "`on_regression: fall_back`", 0.5)
    made_by = [
        json.loads(Path(f"run/iteration-{t}/generations/generations.json").read_text(encoding="utf-8"))["model"]
        for t in range(4)
    ]
    assert made_by[3] == made_by[2] != made_by[1]  # iteration 2 was also answered by iteration-1's model
    assert answers("run", "iteration-3") != answers("run", "iteration-2")  # but sampled again
    state = collapsing(llama_folder, on_regression="fall_back", fall_back_lr_scale=0.5, history=1).state
    assert [state.iteration_args(t).learning_rate for t in range(4)] == [2e-3, 2e-3, 0.2, 1e-3]
    # A discarded iteration is in no history: there are 24 prompts of iteration 3, and as many of iteration 1.
    assert state.decisions.lineage(3) == [0, 1, 3]
    assert entry("train", "iteration-3")["pairs"]["total"] == 48
    # The iteration is compared with its opponent, on all prompts.
    change = result.figures["iteration-3"]["nll_change"]
    assert change == pytest.approx(result.figures["iteration-3"]["nll"] - result.figures["iteration-1"]["nll"])
    # The policy starts at the best: log-ratios are zero, so the loss is ln 2 (which SPIN also checks).
    assert entry("train", "iteration-3")["first"]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert result.best_stage == "iteration-3"


def test_a_fall_back_survives_a_journal_that_was_cut_before_it(llama_folder: Path) -> None:
    """The generations of the next iteration name the model that answered, and the factor on its learning rate. So the same
    decision is recorded again, although the setting is another one by now."""
    settings = {"num_iterations": 2, "on_regression": "fall_back", "fall_back_lr_scale": 0.5}
    settings["per_iteration"] = {"learning_rate": [0.2, 1e-3]}
    collapsing(llama_folder, **settings).run()
    assert decisions() == ["fell back", "improved"]
    assert entry("generate", "iteration-1")["opponent"] == "start"
    before, model = journal(), weights("run/iteration-1/model")
    gate = next(number for number, line in enumerate(before) if line["phase"] == "gate")
    path = Path("run/journal.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:gate]))
    collapsing(llama_folder, **{**settings, "fall_back_lr_scale": 0.25}).run()
    assert [line for line in steps() if line[0] != "lost"] == [(line["phase"], line["stage"]) for line in before]
    assert {**entry("gate", "iteration-0"), "time": 0} == {**before[gate], "time": 0}
    assert weights("run/iteration-1/model") == model


@pytest.mark.parametrize(("rate", "decision"), [(0.2, "fell back"), (2e-3, "improved")])
def test_a_decision_survives_the_loss_of_its_model(llama_folder: Path, rate: float, decision: str) -> None:
    """The model is trained again from the same opponent. Nothing is decided again, neither before that nor afterwards, not
    even with a setting by which the iteration would not have been trained."""
    settings = {"num_iterations": 2, "on_regression": "fall_back", "per_iteration": {"learning_rate": [rate, 1e-3]}}
    collapsing(llama_folder, **settings).run()
    before, models = journal(), [weights(f"run/iteration-{t}/model") for t in range(2)]
    assert decisions()[0] == decision
    Path("run/iteration-0/model/model.safetensors").unlink()
    collapsing(llama_folder, identical_stop=0.0, **settings).run()
    assert [line["phase"] for line in journal()[len(before) :]] == ["lost", "train"]
    assert [weights(f"run/iteration-{t}/model") for t in range(2)] == models


@pytest.mark.slow
def test_a_fall_back_survives_an_interrupt_and_phases_on_their_own(llama_folder: Path) -> None:
    """Running each phase separately, in its own session, gives the same models as the loop."""
    settings = {"on_regression": "fall_back", "fall_back_lr_scale": 0.5}
    collapsing(llama_folder, **settings).run()
    collapsing(llama_folder, "parts", **settings).run_phase("start", 0)
    for t in range(4):
        for phase in ("generate", "train", "evaluate"):
            collapsing(llama_folder, "parts", **settings).run_phase(phase, t)
    for t in range(4):
        assert weights(f"parts/iteration-{t}/model") == weights(f"run/iteration-{t}/model")
    assert collapsing(llama_folder, "parts", **settings).run().best_stage == "iteration-3"
    assert decisions("parts") == decisions()


@pytest.mark.slow
def test_a_run_that_stopped_at_a_regression_can_go_on_from_its_best(llama_folder: Path) -> None:
    """The next iteration is not part of the finished work, so `on_regression` may change, and the learning rate with it."""
    collapsing(llama_folder, on_regression="stop").run()
    result = collapsing(llama_folder, on_regression="fall_back", fall_back_lr_scale=0.25).run()
    assert decisions() == ["improved", "improved", "stopped", "fell back", "improved"]
    assert (result.stopped, result.best_stage) == (None, "iteration-3")
    assert collapsing(llama_folder, on_regression="fall_back").state.iteration_args(3).learning_rate == 5e-4


@pytest.mark.slow
def test_a_decision_that_was_followed_is_not_rewritten(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After four iterations with `continue`, a run that would now fall back changes neither journal nor output."""
    collapsing(llama_folder).run()
    before = journal()
    capsys.readouterr()
    result = collapsing(llama_folder, on_regression="fall_back").run()
    said = capsys.readouterr().out
    assert "Back to" not in said
    assert "iteration-2 is worse than" not in said
    assert journal()[: len(before)] == before
    assert {(line["phase"], line["stage"]) for line in journal()[len(before) :]} <= {("gate", "iteration-3")}
    assert result.figures["iteration-3"]["nll_change"] == pytest.approx(
        result.figures["iteration-3"]["nll"] - result.figures["iteration-2"]["nll"]
    )


def by_hand(model: Path, iteration: int, **settings: Any) -> None:
    """Run the phases of an iteration, each in its own session."""
    for phase in ("start", "generate", "train", "evaluate") if iteration == 0 else ("generate", "train", "evaluate"):
        collapsing(model, **settings).run_phase(phase, iteration)


@pytest.mark.slow
def test_phases_by_hand_obey_the_gate(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A chain of jobs stops where the loop would have stopped, and continues if the settings allow it."""
    for t in range(3):
        by_hand(llama_folder, t, on_regression="stop")
    said = capsys.readouterr().out
    assert said.count("iteration-2 is worse than iteration-1") == 1
    assert "Stopped after iteration 2: it is worse than iteration-1" in said
    with refused(RunDirectoryError, "run", "iteration 2", "iteration-1"):
        collapsing(llama_folder, on_regression="stop").run_phase("generate", 3)
    assert not Path("run/iteration-3").exists()
    by_hand(llama_folder, 3, on_regression="fall_back")
    assert collapsing(llama_folder, on_regression="fall_back").run().best_stage == "iteration-3"
    assert decisions() == ["improved", "improved", "stopped", "fell back", "improved"]


@pytest.mark.slow
def test_out_of_patience_the_best_is_still_what_a_run_would_go_on_from(llama_folder: Path) -> None:
    """The iteration was a regression, too, so without `patience` the run resumes from the best."""
    for t in range(3):
        by_hand(llama_folder, t, on_regression="fall_back", patience=1)
    assert entry("gate", "iteration-2")["decision"] == "stopped"
    assert entry("gate", "iteration-2")["opponent"] == "iteration-1"
    collapsing(llama_folder, on_regression="fall_back").run_phase("generate", 3)
    made_by = [
        json.loads(Path(f"run/iteration-{t}/generations/generations.json").read_text(encoding="utf-8"))["model"]
        for t in (2, 3)
    ]
    assert made_by[0] == made_by[1]


@pytest.mark.slow
def test_a_regression_at_the_last_iteration_stops_nothing(
    llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is a warning and the best is delivered, but no iteration was left to play."""
    rates = {"learning_rate": COLLAPSE["learning_rate"][:3]}
    result = collapsing(llama_folder, num_iterations=3, per_iteration=rates, on_regression="stop").run()
    assert (result.stopped, result.best_stage) == (None, "iteration-1")
    assert "iteration-2 is worse than iteration-1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("logits", "has_diverged"),
    [
        ([0.0, 1.0], False),
        ([-math.inf, 1.0], False),  # a probability of zero is a number
        ([math.nan, 1.0], True),
        ([math.inf, 1.0], True),  # half precision has overflowed
        ([-math.inf, -math.inf], True),
    ],
)
def test_what_can_be_sampled_from_is_looked_at_before(logits: list[float], has_diverged: bool) -> None:
    """On a GPU, it would be too late to check afterwards."""
    from accelerate import Accelerator

    seen = torch.tensor([[[0.0, 0.0], logits]])
    call = type("Model", (), {"device": "cpu", "__call__": lambda self, input_ids: SimpleNamespace(logits=seen)})
    call.named_parameters = lambda self: []
    with pytest.raises(DivergedError) if has_diverged else contextlib.nullcontext():
        check_logits(call(), Accelerator(cpu=True), [1, 2])


@pytest.mark.slow
def test_what_an_iteration_started_from_stays_when_settings_change(llama_folder: Path) -> None:
    """Once the iteration has begun, its generations are the best model's; training another model on them would be a
    different game.
    """
    falls_back = {"on_regression": "fall_back", "fall_back_lr_scale": 0.5}
    whole = collapsing(llama_folder, "whole", **falls_back).run()
    for t in range(3):
        for phase in ("start", "generate", "train", "evaluate") if t == 0 else ("generate", "train", "evaluate"):
            collapsing(llama_folder, **falls_back).run_phase(phase, t)
    collapsing(llama_folder, **falls_back).run_phase("generate", 3)
    result = collapsing(llama_folder, on_regression="continue").run()
    assert weights("run/iteration-3/model") == weights("whole/iteration-3/model")
    assert result.best_stage == whole.best_stage


def test_a_run_that_may_fall_back_is_evaluated_before_it_goes_on(llama_folder: Path) -> None:
    """With phases by hand, a model that has not been judged might be the wrong one to generate with."""
    for phase in ("start", "generate", "train"):
        collapsing(llama_folder, on_regression="fall_back").run_phase(phase, 0)
    with refused(RunDirectoryError, "generate", "iteration 1", "evaluate", "iteration-0"):
        collapsing(llama_folder, on_regression="fall_back").run_phase("generate", 1)
    collapsing(llama_folder).run_phase("generate", 1)


@pytest.mark.slow
def test_the_start_can_be_what_a_run_falls_back_to(llama_folder: Path) -> None:
    """This uses LoRA, whose start has no adapter."""
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    rates = {"learning_rate": [20.0, 1e-3]}
    settings = {"num_iterations": 2, "per_iteration": rates, "peft_config": lora, "on_regression": "fall_back"}
    result = collapsing(llama_folder, **settings, max_steps=2).run()  # a third one makes the gradients NaN
    assert decisions() == ["fell back", "improved"]
    assert result.figures["iteration-1"]["nll_change"] == pytest.approx(
        result.figures["iteration-1"]["nll"] - result.figures["start"]["nll"]
    )
    assert entry("train", "iteration-1")["first"]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert result.best_stage == "iteration-1"


DIVERGED = {"learning_rate": [2e-3, 1e30, 2e-3]}
"""The second iteration's weights become NaN after a step with finite loss and gradient; each iteration has one step."""


@pytest.mark.slow
def test_a_model_whose_training_has_diverged_is_judged_and_does_not_end_in_a_traceback(
    llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can't answer, so it can't be an opponent: the run stops, or falls back."""
    settings = {"num_iterations": 3, "per_iteration": DIVERGED, "baseline": "sft", "max_steps": 1}
    result = collapsing(llama_folder, **settings).run()
    assert result.stopped is not None
    assert names(result.stopped, "iteration 1", "NaN")
    assert result.stopped in capsys.readouterr().out
    assert result.best_stage == "iteration-0"
    assert result.figures["iteration-1"] == {"held_out": HELD_OUT}
    result = collapsing(llama_folder, **settings, on_regression="fall_back").run()
    assert decisions() == ["improved", "stopped", "fell back", "improved"]
    assert names(capsys.readouterr().out, "iteration-1", "iteration-0", "nll")
    assert (result.stopped, result.best_stage) == (None, "iteration-2")


def test_a_served_model_whose_training_has_diverged_is_judged_before_it_is_served(
    llama_folder: Path, starts: list[str]
) -> None:
    settings = {"num_iterations": 2, "per_iteration": {"learning_rate": [1e30, 2e-3]}, "max_steps": 1}
    result = build(llama_folder, **settings, generation_continuous=True).run()
    assert result.stopped is not None
    assert names(result.stopped, "iteration 0", "NaN")
    assert starts == ["start"]


def test_a_diverged_model_is_not_played_against_where_nothing_is_measured(llama_folder: Path) -> None:
    """Without held-out prompts, divergence is found only by the next iteration."""
    settings = {"num_iterations": 3, "per_iteration": DIVERGED, "held_out_fraction": 0.0, "max_steps": 1}
    with refused(DivergedError, "NaN"):
        build(llama_folder, **settings).run()
    assert steps()[-1] == ("gate", "iteration-1")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["iris", "tspin"])
def test_objectives_that_look_back_look_at_the_best_after_a_fall_back(llama_folder: Path, loss: str) -> None:
    """IRIS takes its order from the gap that its opponent reached, T-SPIN its proto responses from iteration 0."""
    result = collapsing(llama_folder, loss_type=loss, on_regression="fall_back").run()
    assert decisions()[2] == "fell back"
    if loss == "iris":
        gap = result.figures["iteration-1"]["gap"]
        order = entry("train", "iteration-3")["objective"]["iris_alpha"]
        assert order == pytest.approx(min(max(1 + 0.5 * gap, 0.5), 3.0))
    assert entry("train", "iteration-3")["steps"] == entry("train", "iteration-0")["steps"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_regression": "fallback"}, ("`on_regression`", "'fallback'", "'continue', 'stop', 'fall_back'")),
        ({"patience": 0}, ("`patience`", 0, 1)),
        ({"min_improvement": -0.1}, ("`min_improvement`", -0.1, 0)),
        ({"fall_back_lr_scale": 0.0}, ("`fall_back_lr_scale`", 0.0, 1)),
        (
            {"significant_improvement": True, "metric_for_best_iteration": "win_rate"},
            ("`significant_improvement`", "win_rate"),
        ),
        ({"on_regression": "stop", "metric_for_best_iteration": "gap"}, ("`on_regression`", "gap")),
    ],
)
def test_settings_of_the_gate_are_checked(
    llama_folder: Path, settings: dict[str, Any], message: tuple[Any, ...]
) -> None:
    with refused(RecipeError, *message):
        build(llama_folder, **settings)


def voted(run: RunRecord, stage_name: str, won: int, lost: int, against: str = "previous") -> RunRecord:
    """Return the same run with people's votes on the answers of a stage."""
    entry = entry_of(stage_name, ["won"] * won + ["lost"] * lost, against)
    return dataclasses.replace(run, journal=[*run.journal, entry])


WAITING = {"human_review": "every 1", "review_gate": "wait"}


@pytest.mark.parametrize(
    ("settings", "decision", "opponent"),
    [
        ({}, "continued", "iteration-1"),
        ({"on_regression": "stop"}, "stopped", "iteration-1"),
        ({"on_regression": "fall_back"}, "fell back", "iteration-0"),
    ],
)
def test_an_iteration_that_people_find_worse_is_not_delivered_although_its_figure_is_better(
    settings: dict[str, Any], decision: str, opponent: str
) -> None:
    run = voted(played(3.0, 2.0, 1.0), "iteration-1", won=3, lost=27)
    verdict = judged(run, **WAITING, **settings)
    assert (verdict.decision, verdict.best, verdict.opponent) == (decision, "iteration-0", opponent)
    assert verdict.rejected
    assert any(names(warning, "iteration-1", "review_min_win_rate", "10.0 %") for warning in verdict.warnings)
    if decision == "stopped":
        assert names(str(verdict.reason), "on_regression: stop", "10.0 %", "30 pairs")


@pytest.mark.parametrize(
    ("won", "lost", "against", "settings", "is_warned"),
    [
        (3, 27, "previous", {"review_gate": "warn"}, True),
        (3, 27, "previous", {"review_gate": "off"}, False),
        (3, 27, "real", WAITING, False),
        (1, 18, "previous", WAITING, False),
        (12, 18, "previous", WAITING, False),
        (5, 15, "previous", {**WAITING, "review_min_win_rate": 0.2}, False),
    ],
)
def test_votes_change_no_decision_where_they_say_too_little_or_the_gate_only_warns(
    won: int, lost: int, against: str, settings: dict[str, Any], is_warned: bool
) -> None:
    run = voted(played(3.0, 2.0, 1.0), "iteration-1", won, lost, against)
    settings = {"human_review": "last", "on_regression": "fall_back", **settings}
    if against == "real":
        settings["review_pairs"] = ["previous", "real"]
    verdict = judged(run, **settings)
    assert (verdict.decision, verdict.best, verdict.rejected) == ("improved", "iteration-1", False)
    assert [names(warning, "review_min_win_rate") for warning in verdict.warnings] == [True] * is_warned


def test_an_iteration_that_was_rejected_stays_out_of_the_choice_of_the_best() -> None:
    gate = {"phase": "gate", "stage": "iteration-0", "time": 2e9, "decision": "continued", "rejected": True,
            "best": "start", "opponent": "iteration-0", "lr_scale": 1.0, "reason": None}  # fmt: skip
    run = dataclasses.replace(played(3.0, 1.0, 2.0), journal=[gate])
    verdict = judged(run, **WAITING)
    assert (verdict.decision, verdict.best) == ("improved", "iteration-1")
    assert list(run.candidates(1)) == ["start", "iteration-1"]
    assert list(finalists(run, SelfPlayConfig())) == ["start", "iteration-1"]
    trained = [{"phase": "train", "stage": f"iteration-{number}", "time": 1e9} for number in range(2)]
    run = dataclasses.replace(run, journal=[*trained, gate])
    assert origin_of_dpo(run, SelfPlayConfig(), "best") == "iteration-1"


def test_a_rejection_that_another_iteration_has_followed_is_history() -> None:
    """Votes that come later neither reject nor stop; a recorded rejection stays, and may stop if the settings change."""
    run = voted(played(3.0, 2.0, 1.0), "iteration-1", won=3, lost=27)
    stopping = SelfPlayConfig(**WAITING, on_regression="stop")
    late = judge(run, stopping, 1, rejected=False)
    assert (late.decision, late.best, late.rejected) == ("improved", "iteration-1", False)
    recorded = judge(run, stopping, 1, rejected=True)
    assert (recorded.decision, recorded.best, recorded.rejected) == ("stopped", "iteration-0", True)
    liked = judge(played(3.0, 2.0, 1.0), stopping, 1, rejected=True)
    assert (liked.decision, liked.best, liked.rejected) == ("continued", "iteration-0", True)


def test_an_iteration_that_only_an_untrained_one_has_followed_can_still_be_rejected() -> None:
    """Its answers are those that the untrained one started from, so that the opponent stays."""
    before = {
        "phase": "gate",
        "stage": "iteration-1",
        "decision": "improved",
        "opponent": "iteration-1",
        "reason": None,
    }
    run = voted(played(3.0, 2.0, 1.0), "iteration-1", won=3, lost=27)
    verdict = as_played(judged(run, **WAITING, on_regression="fall_back"), Decisions([before]), 1)
    assert (verdict.decision, verdict.best, verdict.opponent) == ("continued", "iteration-0", "iteration-1")
    assert verdict.rejected
