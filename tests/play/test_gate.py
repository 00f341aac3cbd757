"""What is decided after an iteration: warnings of bad answers, and a run that ends where it is told to."""

import json
from pathlib import Path

import pytest

import tiny
from play.runs import build, journal, steps
from spin_trl.errors import RecipeError
from spin_trl.play.gate import Verdict, judge, plateau


def phases(run_dir: str = "run") -> list[str]:
    """Stages that were trained."""
    return [stage for phase, stage in steps(run_dir) if phase == "train"]


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
        path.write_text(json.dumps({"truncated": truncated}))
    assert judge(run, 0) == Verdict(("start: 100 % of the answers were cut before their end",), None)
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


def test_the_game_ends_when_the_policy_can_not_tell_real_from_generated(
    llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step of zero leaves every log-ratio at zero: all prompts are ties, and two hundred say so."""
    rows = {"train_dataset": tiny.sft(6), "eval_dataset": tiny.sft(200)}
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
