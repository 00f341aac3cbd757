"""Held-out figures, against numbers worked out by hand."""

import math
import random
import statistics

import pytest

from spin_trl.evaluation.figures import HeldOutRow, summarise


def row(**values):
    defaults = {
        "real_logp": -4.0,
        "real_tokens": 4,
        "generated_logp": -5.0,
        "generated_tokens": 5,
        "finish_reason": "eos",
        "identical": False,
    }
    return HeldOutRow(**{**defaults, **values})


def test_nll_is_per_token_over_all_tokens_not_a_mean_of_rows():
    figures = summarise([row(real_logp=-2.0, real_tokens=1), row(real_logp=-3.0, real_tokens=9)])
    assert figures["nll"] == pytest.approx(0.5)  # 5 nats over 10 tokens; the mean of rows would be 1.17
    assert figures["logps/real"] == pytest.approx(-2.5)
    assert figures["length_real"] == 5


def test_shares_count_cut_empty_and_identical_responses():
    figures = summarise(
        [
            row(finish_reason="length", generated_tokens=8),
            row(generated_tokens=1),  # nothing but EOS
            row(generated_tokens=1, finish_reason="length"),  # cut after its first token: not empty
            row(identical=True),
        ]
    )
    assert figures["truncated"] == 0.5
    assert figures["empty"] == 0.25
    assert figures["identical"] == 0.25
    assert figures["length_generated"] == (8 + 1 + 1 + 5) / 4


def test_the_win_rate_counts_a_tie_as_half():
    figures = summarise([row(real_logratio=margin - 3.0, generated_logratio=-3.0) for margin in (2.0, 0.1, 0.0, -1.0)])
    assert figures["win_rate"] == pytest.approx(0.625)
    # Standard error of 1, 1, 0.5, 0: deviations 0.375, 0.375, -0.125, -0.625.
    assert figures["win_rate_se"] == pytest.approx(math.sqrt((2 * 0.375**2 + 0.125**2 + 0.625**2) / 3 / 4))


def test_figures_that_were_not_measured_are_absent():
    figures = summarise([row(), row()])
    assert not {"win_rate", "score", "score_greedy", "logps/generated"} & set(figures)


def test_scores_are_means_with_standard_errors():
    figures = summarise([row(score=value, greedy_score=1.0) for value in (1.0, 0.0, 0.0, 1.0)])
    assert figures["score"] == 0.5
    assert figures["score_se"] == pytest.approx(math.sqrt(1 / 3) / 2)
    assert (figures["score_greedy"], figures["score_greedy_se"]) == (1.0, 0.0)


def test_one_prompt_has_figures_but_no_standard_error():
    figures = summarise([row(score=1.0)])
    assert figures["score"] == 1.0
    assert math.isnan(figures["score_se"])


def test_the_standard_error_of_nll_is_the_spread_of_nll_over_many_samples():
    """Draw the same held-out set again and again: the spread of the figure is what its standard error says."""
    rng = random.Random(0)

    def sample():
        rows = []
        for _ in range(200):
            tokens = rng.randint(2, 40)
            rows.append(row(real_tokens=tokens, real_logp=-tokens * rng.uniform(0.2, 1.0)))
        return summarise(rows)

    samples = [sample() for _ in range(400)]
    spread = statistics.stdev(figures["nll"] for figures in samples)
    claimed = statistics.fmean(figures["nll_se"] for figures in samples)
    assert claimed == pytest.approx(spread, rel=0.12)


def test_named_scores_are_figures_of_their_own_over_the_rows_that_have_them():
    figures = summarise(
        [
            row(score={"right": 1.0, "format": 1.0}, greedy_score={"right": 0.0}),
            row(score={"right": 0.0, "format": 1.0}, greedy_score={"right": 1.0}),
            row(score={"right": 0.0}, greedy_score={}),
        ]
    )
    assert figures["score/right"] == pytest.approx(1 / 3)
    assert figures["score/right_se"] == pytest.approx(1 / 3)  # deviations 2/3, -1/3, -1/3
    assert (figures["score/format"], figures["score_greedy/right"]) == (1.0, 0.5)
    assert "score" not in figures
