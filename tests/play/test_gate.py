"""What is decided after an iteration: warnings, a run that ends where it is told to, or falls back to its best."""

import contextlib
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

import tiny
from runs import answers, build, entry, journal, steps, weights
from spin_trl import SelfPlay
from spin_trl.errors import DivergedError, RecipeError, RunDirectoryError
from spin_trl.play.gate import Verdict, judge, plateau
from spin_trl.play.generate import _check_numbers


def others(first: int, count: int) -> Dataset:
    """Rows of other prompts than the first ones."""
    return tiny.sft(first + count).select(range(first, first + count))


def phases(run_dir: str = "run") -> list[str]:
    """Stages that were trained."""
    return [stage for phase, stage in steps(run_dir) if phase == "train"]


@pytest.mark.slow
def test_bad_answers_are_warned_of_and_the_run_goes_on(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tiny untrained model's answers are cut; that is said of the start and of every iteration, once."""
    build(llama_folder, num_iterations=2, max_new_tokens=4).run()
    said = capsys.readouterr().out
    for stage in ("start", "iteration-0", "iteration-1"):
        assert said.count(f"{stage}: 100 % of the answers were cut before their end") == 1
    assert phases() == ["iteration-0", "iteration-1"]
    build(llama_folder, num_iterations=2, max_new_tokens=4).run()
    assert "were cut" not in capsys.readouterr().out


def test_warnings_can_be_switched_off(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    off = dict.fromkeys(("truncated", "distinct", "odd_characters", "short", "long", "repetition"))
    build(llama_folder, num_iterations=1, max_new_tokens=4, degeneration_warn=off).run()
    assert "answers" not in capsys.readouterr().out


def test_a_run_stops_where_its_answers_have_gone_bad(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After the iteration, whose model is kept; the best one is delivered, and the same command stops again at once."""
    settings = {"num_iterations": 3, "max_new_tokens": 4}
    result = build(llama_folder, degeneration_stop='{"truncated": 0.9}', **settings).run()
    assert result.stopped == (
        "Stopped after iteration 0: 100 % of the answers were cut before their end (`degeneration_stop` truncated: 0.9)."
    )
    assert result.stopped in capsys.readouterr().out
    assert phases() == ["iteration-0"]
    assert list(result.figures) == ["start", "iteration-0"]
    assert Path(result.best_model).is_dir()
    count = len(journal())
    again = build(llama_folder, degeneration_stop={"truncated": 0.9}, **settings).run()
    assert (again.stopped, again.best_stage) == (result.stopped, result.best_stage)
    assert len(journal()) == count


def test_a_run_that_stopped_goes_on_when_it_may(llama_folder: Path) -> None:
    """The thresholds decide how far a run goes, not what comes out: they may change."""
    settings = {"num_iterations": 2, "max_new_tokens": 4}
    build(llama_folder, degeneration_stop={"truncated": 0.9}, **settings).run()
    result = build(llama_folder, degeneration_stop={"truncated": None}, **settings).run()
    assert result.stopped is None
    assert phases() == ["iteration-0", "iteration-1"]


def test_a_start_whose_answers_are_bad_does_not_stop_the_run(llama_folder: Path) -> None:
    """Self-play is there to mend it: it is warned of, before the first iteration only, and iterations are judged."""
    run = build(llama_folder, degeneration_stop={"truncated": 0.9}).state
    for stage, truncated in (("start", 1.0), ("iteration-0", 0.2), ("iteration-1", 0.95)):
        path = run.directory.metrics(stage)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"truncated": truncated, "nll": 1.0}), encoding="utf-8")
    assert judge(run, 0) == Verdict(
        "continued",
        best="start",
        opponent="iteration-0",
        warnings=("start: 100 % of the answers were cut before their end",),
    )
    second = judge(run, 1)
    assert second.warnings == ("iteration-1: 95 % of the answers were cut before their end",)
    assert second.stopped is not None
    assert "truncated: 0.9" in second.stopped


def test_thresholds_are_checked_when_the_settings_are_made(llama_folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"`degeneration_stop` is 'cut'; it must be one of 'empty', 'truncated'"):
        build(llama_folder, degeneration_stop={"cut": 0.9})
    with pytest.raises(RecipeError, match=r"`degeneration_warn` has 'much' for 'empty'; expected a number, or null"):
        build(llama_folder, degeneration_warn={"empty": "much"})


@pytest.mark.parametrize(
    ("rate", "low", "high", "is_over"),
    [
        (0.51, 0.45, 0.57, True),
        (0.46, 0.42, 0.5, True),
        (0.55, 0.51, 0.59, False),  # better than chance
        (0.4, 0.35, 0.45, False),  # worse than chance: no plateau, whatever it is
        (0.5, 0.3, 0.7, False),  # nobody knows
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
    """A step of zero leaves every log-ratio at zero: all prompts are ties, and two hundred say so."""
    rows = {"train_dataset": tiny.sft(6), "eval_dataset": others(6, 200)}
    settings = {"num_iterations": 2, "learning_rate": 0.0, "max_new_tokens": 2, "generation_batch_size": 200}
    result = build(llama_folder, **rows, **settings).run()
    assert result.stopped == (
        "Stopped after iteration 0: the game is over: the policy prefers the real response to its opponent's on 50.0 % "
        "of the held-out prompts (50.0 to 50.0), as often as not (`stop_at_plateau`)."
    )
    assert result.stopped in capsys.readouterr().out
    assert phases() == ["iteration-0"]
    on = build(llama_folder, **rows, **settings, stop_at_plateau=False).run()
    assert on.stopped is None
    assert phases() == ["iteration-0", "iteration-1"]


# ---- the gate: an iteration that is worse than the best ---------------------------------------------------------------

HELD_OUT = 40
COLLAPSE = {"learning_rate": [2e-3, 2e-3, 0.2, 2e-3]}
"""The third iteration's step is a hundred times too large."""


def collapsing(model: Path, run_dir: str = "run", **settings: Any) -> SelfPlay:
    """A run of four iterations whose third is made to collapse."""
    rows = {"train_dataset": tiny.sft(24), "eval_dataset": others(24, HELD_OUT)}
    return build(model, run_dir, **rows, **{"num_iterations": 4, "per_iteration": COLLAPSE, **settings})


def decisions(run_dir: str = "run") -> list[str]:
    """What the gate has decided, iteration by iteration."""
    return [line["decision"] for line in journal(run_dir) if line["phase"] == "gate"]


def test_an_iteration_that_collapses_is_caught_and_the_one_before_is_delivered(
    llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Byte for byte: it is the model of a run that ends with the second iteration."""
    result = collapsing(llama_folder, on_regression="stop").run()
    assert result.stopped is not None
    assert result.stopped.startswith("Stopped after iteration 2: it is worse than iteration-1: nll ")
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


@pytest.mark.slow
def test_a_collapse_is_said_and_goes_on_where_nothing_else_is_asked_for(
    llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The papers' loops do so; the worse iteration is not delivered all the same."""
    result = collapsing(llama_folder, num_iterations=3, per_iteration={"learning_rate": [2e-3, 2e-3, 0.2]}).run()
    assert "iteration-2 is worse than iteration-1" in capsys.readouterr().out
    assert (result.stopped, result.best_stage) == (None, "iteration-1")
    assert decisions() == ["improved", "improved", "continued"]


def test_falling_back_starts_the_next_iteration_from_the_best(
    llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a smaller step. Its opponent answers, it is what the policy starts from, and what it is compared with."""
    result = collapsing(llama_folder, on_regression="fall_back", fall_back_lr_scale=0.5, history=1).run()
    assert decisions() == ["improved", "improved", "fell back", "improved"]
    assert "Back to iteration-1 as the next opponent (`on_regression: fall_back`), with 0.5 times the" in (
        capsys.readouterr().out
    )
    made_by = [
        json.loads(Path(f"run/iteration-{t}/generations/generations.json").read_text(encoding="utf-8"))["model"]
        for t in range(4)
    ]
    assert made_by[3] == made_by[2] != made_by[1]  # iteration 2 was answered by iteration-1's model, too
    assert answers("run", "iteration-3") != answers("run", "iteration-2")  # but sampled anew
    state = collapsing(llama_folder, on_regression="fall_back", fall_back_lr_scale=0.5, history=1).state
    assert [state.iteration_args(t).learning_rate for t in range(4)] == [2e-3, 2e-3, 0.2, 1e-3]
    # What was given up is in no history: 24 prompts of iteration 3, and as many of iteration 1.
    assert state.lineage(3) == [0, 1, 3]
    assert entry("train", "iteration-3")["pairs"]["total"] == 48
    # Compared with its opponent, on all prompts.
    change = result.figures["iteration-3"]["nll_change"]
    assert change == pytest.approx(result.figures["iteration-3"]["nll"] - result.figures["iteration-1"]["nll"])
    # The policy starts at the best: log-ratios of zero, so a loss of ln 2 (SPIN checks it, too).
    assert entry("train", "iteration-3")["first"]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert result.best_stage == "iteration-3"


@pytest.mark.slow
def test_a_fall_back_survives_an_interrupt_and_phases_on_their_own(llama_folder: Path) -> None:
    """Every phase by itself, in a session of its own, makes the same models as the loop."""
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
    """What happens then is no part of what was played: it may change, and the step with it."""
    collapsing(llama_folder, on_regression="stop").run()
    result = collapsing(llama_folder, on_regression="fall_back", fall_back_lr_scale=0.25).run()
    assert decisions() == ["improved", "improved", "stopped", "fell back", "improved"]
    assert (result.stopped, result.best_stage) == (None, "iteration-3")
    assert collapsing(llama_folder, on_regression="fall_back").state.iteration_args(3).learning_rate == 5e-4


@pytest.mark.slow
def test_a_decision_that_was_followed_is_not_rewritten(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four iterations played with `continue`: that the run would fall back now changes neither journal nor story."""
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
    """Play the phases of an iteration, each in a session of its own."""
    for phase in ("start", "generate", "train", "evaluate") if iteration == 0 else ("generate", "train", "evaluate"):
        collapsing(model, **settings).run_phase(phase, iteration)


@pytest.mark.slow
def test_phases_by_hand_obey_the_gate(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A chain of jobs ends where the loop would have ended, and goes on where the settings let it."""
    for t in range(3):
        by_hand(llama_folder, t, on_regression="stop")
    said = capsys.readouterr().out
    assert said.count("iteration-2 is worse than iteration-1") == 1
    assert "Stopped after iteration 2: it is worse than iteration-1" in said
    with pytest.raises(
        RunDirectoryError, match=r"run has ended\. Stopped after iteration 2: it is worse than iteration-1"
    ):
        collapsing(llama_folder, on_regression="stop").run_phase("generate", 3)
    assert not Path("run/iteration-3").exists()
    by_hand(llama_folder, 3, on_regression="fall_back")
    assert collapsing(llama_folder, on_regression="fall_back").run().best_stage == "iteration-3"
    assert decisions() == ["improved", "improved", "stopped", "fell back", "improved"]


@pytest.mark.slow
def test_out_of_patience_the_best_is_still_what_a_run_would_go_on_from(llama_folder: Path) -> None:
    """It regressed, too: whoever takes the patience away goes on from the best."""
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
    """It is said, and the best is delivered; but nothing was left to play."""
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
        ([math.inf, 1.0], True),  # as half precision overflows
        ([-math.inf, -math.inf], True),
    ],
)
def test_what_can_be_sampled_from_is_looked_at_before(logits: list[float], has_diverged: bool) -> None:
    """On a GPU it would be too late afterwards."""
    from accelerate import Accelerator

    seen = torch.tensor([[[0.0, 0.0], logits]])
    call = type("Model", (), {"device": "cpu", "__call__": lambda self, input_ids: SimpleNamespace(logits=seen)})
    with pytest.raises(DivergedError) if has_diverged else contextlib.nullcontext():
        _check_numbers(call(), Accelerator(cpu=True), [1, 2])


@pytest.mark.slow
def test_what_an_iteration_started_from_stays_when_settings_change(llama_folder: Path) -> None:
    """Once it has begun, its generations are the best's: training from another model would be another game."""
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
    """Phases by hand: generating with a model that was not judged might be generating with the wrong one."""
    for phase in ("start", "generate", "train"):
        collapsing(llama_folder, on_regression="fall_back").run_phase(phase, 0)
    with pytest.raises(
        RunDirectoryError, match="generate phase of iteration 1 needs the evaluate phase of iteration-0"
    ):
        collapsing(llama_folder, on_regression="fall_back").run_phase("generate", 1)
    collapsing(llama_folder).run_phase("generate", 1)


@pytest.mark.slow
def test_the_start_can_be_what_a_run_falls_back_to(llama_folder: Path) -> None:
    """With LoRA, whose start has no adapter."""
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    rates = {"learning_rate": [20.0, 1e-3]}
    settings = {"num_iterations": 2, "per_iteration": rates, "peft_config": lora, "on_regression": "fall_back"}
    result = collapsing(llama_folder, **settings).run()
    assert decisions() == ["fell back", "improved"]
    assert result.figures["iteration-1"]["nll_change"] == pytest.approx(
        result.figures["iteration-1"]["nll"] - result.figures["start"]["nll"]
    )
    assert entry("train", "iteration-1")["first"]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert result.best_stage == "iteration-1"


DIVERGED = {"learning_rate": [2e-3, 1e30, 2e-3]}
"""The second iteration's weights are no numbers any more."""


@pytest.mark.slow
def test_a_model_whose_training_has_diverged_is_judged_and_does_not_end_in_a_traceback(
    llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It can't answer, so nothing can be played against it: the run ends by itself, or falls back."""
    settings = {"num_iterations": 3, "per_iteration": DIVERGED, "baseline": "sft"}
    result = collapsing(llama_folder, **settings).run()
    assert result.stopped is not None
    assert result.stopped.startswith(
        "Stopped after iteration 1: its training has diverged: its probabilities are no numbers"
    )
    assert result.stopped in capsys.readouterr().out
    assert result.best_stage == "iteration-0"
    assert result.figures["iteration-1"] == {"held_out": HELD_OUT}
    result = collapsing(llama_folder, **settings, on_regression="fall_back").run()
    assert decisions() == ["improved", "stopped", "fell back", "improved"]
    assert "iteration-1 is worse than iteration-0: nll no number, against" in capsys.readouterr().out
    assert (result.stopped, result.best_stage) == (None, "iteration-2")


def test_a_diverged_model_is_not_played_against_where_nothing_is_measured(llama_folder: Path) -> None:
    """Without held-out prompts nobody has seen it: the next iteration says so."""
    settings = {"num_iterations": 3, "per_iteration": DIVERGED, "held_out_fraction": 0.0}
    with pytest.raises(DivergedError, match="The model's probabilities are no numbers"):
        build(llama_folder, **settings).run()
    assert steps()[-1] == ("gate", "iteration-1")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["iris", "tspin"])
def test_objectives_that_look_back_look_at_the_best_after_a_fall_back(llama_folder: Path, loss: str) -> None:
    """IRIS takes its order from the gap that its opponent has reached, T-SPIN its proto from iteration 0."""
    result = collapsing(llama_folder, loss_type=loss, on_regression="fall_back").run()
    assert decisions()[2] == "fell back"
    if loss == "iris":
        gap = result.figures["iteration-1"]["gap"]
        order = entry("train", "iteration-3")["objective"]["iris_alpha"]
        assert order == pytest.approx(min(max(1 + 0.5 * gap, 0.5), 3.0))
    assert entry("train", "iteration-3")["steps"] == entry("train", "iteration-0")["steps"]


def test_patience_ends_a_run_that_no_longer_improves(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A step of zero changes nothing: two iterations without an improvement, and that is enough."""
    rows = {"train_dataset": tiny.sft(6), "eval_dataset": others(6, HELD_OUT)}
    settings = {"num_iterations": 4, "learning_rate": 0.0, "max_new_tokens": 2, "stop_at_plateau": False}
    result = build(llama_folder, **rows, **settings, patience=2).run()
    assert result.stopped == "Stopped after iteration 1: 2 iterations without an improvement on start (`patience`)."
    assert result.stopped in capsys.readouterr().out
    assert (phases(), result.best_stage) == (["iteration-0", "iteration-1"], "start")
    on = build(llama_folder, **rows, **settings, patience=3).run()
    assert on.stopped == "Stopped after iteration 2: 3 iterations without an improvement on start (`patience`)."


@pytest.mark.slow
def test_patience_counts_from_the_best(llama_folder: Path) -> None:
    result = collapsing(llama_folder, patience=1).run()
    assert (
        result.stopped == "Stopped after iteration 2: an iteration without an improvement on iteration-1 (`patience`)."
    )
    assert result.best_stage == "iteration-1"


@pytest.mark.slow
def test_an_improvement_that_is_too_small_is_not_delivered(llama_folder: Path) -> None:
    """The iterations gain some tenths of a nat: not ten."""
    short = {"num_iterations": 2, "per_iteration": {"learning_rate": [2e-3, 2e-3]}}
    assert collapsing(llama_folder, "any", **short).run().best_stage == "iteration-1"
    strict = collapsing(llama_folder, "strict", **short, min_improvement=10.0).run()
    assert strict.best_stage == "start"
    assert decisions("strict") == ["continued", "continued"]
    assert collapsing(llama_folder, "sure", **short, significant_improvement=True).run().best_stage == "iteration-1"


def test_an_improvement_that_may_be_luck_is_not_delivered_where_significance_is_asked_for(llama_folder: Path) -> None:
    """One held-out prompt: too few to be sure of anything."""
    rows = {"train_dataset": tiny.sft(8), "eval_dataset": others(8, 1)}
    settings = {"num_iterations": 1, "learning_rate": 2e-3}
    assert build(llama_folder, "any", **rows, **settings).run().best_stage == "iteration-0"
    result = build(llama_folder, "sure", **rows, **settings, significant_improvement=True).run()
    assert result.best_stage == "start"


def test_a_run_without_held_out_data_has_nothing_to_judge(llama_folder: Path) -> None:
    result = build(llama_folder, num_iterations=2, held_out_fraction=0.0, on_regression="fall_back", patience=1).run()
    assert (result.stopped, result.best_stage) == (None, "iteration-1")
    assert decisions() == ["continued", "continued"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"on_regression": "fallback"},
            "`on_regression` is 'fallback'; it must be one of 'continue', 'stop', 'fall_back'",
        ),
        ({"patience": 0}, "`patience` is 0; it must be at least 1"),
        ({"min_improvement": -0.1}, "`min_improvement` is -0.1; it must be at least 0"),
        ({"fall_back_lr_scale": 0.0}, "`fall_back_lr_scale` is 0.0; it must be above 0 and at most 1"),
        (
            {"significant_improvement": True, "metric_for_best_iteration": "win_rate"},
            "`significant_improvement` compares prompt by prompt, which 'win_rate'",
        ),
        (
            {"on_regression": "stop", "metric_for_best_iteration": "gap"},
            "`on_regression` compares prompt by prompt, which 'gap'",
        ),
    ],
)
def test_settings_of_the_gate_are_checked(llama_folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        build(llama_folder, **settings)
