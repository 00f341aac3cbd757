"""The table of figures has every figure that is measured, with the same properties everywhere."""

import pytest

from spin_trl.config.loop import SelfPlayConfig
from spin_trl.evaluation.degeneration import SIGNS, AnsweredPrompt, measure
from spin_trl.evaluation.diagnostics import game_figures
from spin_trl.evaluation.figures import FIGURES, RETAINED, REVIEWED, figure_of, is_figure, is_score
from spin_trl.evaluation.summary import HeldOutRow, summarise

ROW = HeldOutRow(
    real_logp=-4.0,
    real_tokens=4,
    generated_logp=-5.0,
    generated_tokens=5,
    finish_reason="eos",
    identical=False,
    real_logratio=0.5,
    generated_logratio=-0.5,
    opponent_generated_logp=-6.0,
    opponent_generated_tokens=3,
    score=1.0,
    greedy_score=0.0,
)
OF_THE_LOSS = ("coefficient/", "pairs_in_play/")
"""Diagnostics of a loss are in `metrics.json` for those who look there, and are not figures to choose a model by."""


def test_every_figure_that_is_measured_is_in_the_table() -> None:
    measured = summarise([ROW, ROW]) | game_figures([ROW, ROW], {"sigmoid": 1.0}, {"beta": 0.1})
    measured |= measure([AnsweredPrompt([1, 2, 3], [1, 2, 4], "abc", "abd")], ["abd"])
    names = {name for name in measured if is_figure(name, measured) and not name.startswith(OF_THE_LOSS)}
    assert names - {"held_out"} == {name for name in FIGURES if not name.startswith((RETAINED, REVIEWED))}
    assert {sign.figure for sign in SIGNS.values()} <= set(FIGURES)


def test_lengths_and_what_the_opponent_would_say_only_describe() -> None:
    """Answers may be too long or too short. Such a figure still has a direction if it is chosen as the metric."""
    neutral = {name for name, figure in FIGURES.items() if figure.is_neutral}
    assert neutral == {
        "length_real", "length_generated", "degeneration/length_ratio", "logps/generated", "logratio/generated",
    }  # fmt: skip
    assert all(FIGURES[name].greater_is_better for name in neutral)


@pytest.mark.parametrize(
    ("name", "words", "column"),
    [
        ("score/final_answer", "final answer", "final answer %"),
        ("score_greedy/final_answer", "greedy final answer", "greedy final answer %"),
        ("nll", "NLL per token", "NLL/token"),
        ("somebody/elses", "somebody/elses", "somebody/elses"),
        ("retention/score/final_answer", "final answer on the retention set", "ret. final answer %"),
        ("retention/hellaswag/acc", "hellaswag/acc on the retention set", "ret. hellaswag/acc"),
    ],
)
def test_a_named_score_and_an_unknown_figure_have_words_too(name: str, words: str, column: str) -> None:
    found = figure_of(name)
    assert (found.name, found.words, found.column) == (name, words, column)
    assert found.percent is is_score(name.removeprefix(RETAINED))


def test_what_says_how_sure_a_figure_is_is_no_figure() -> None:
    names = ["nll", "nll_se", "nll_change", "nll_change_low", "b_low"]
    assert [name for name in names if is_figure(name, names)] == ["nll", "b_low"]


@pytest.mark.parametrize("name", [name for name in FIGURES if not is_score(name)])
def test_a_run_that_is_chosen_by_a_figure_goes_its_way(name: str) -> None:
    """Fewer empty answers are better, as is a lower NLL."""
    assert (
        SelfPlayConfig(metric_for_best_iteration=name).greater_is_better_iteration is FIGURES[name].greater_is_better
    )
    assert FIGURES["empty"].greater_is_better is FIGURES["nll"].greater_is_better is False
    assert FIGURES["win_rate"].greater_is_better is True
