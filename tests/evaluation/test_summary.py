"""Held-out figures match numbers worked out by hand."""

import math
import random
import statistics

import pytest

from spin_trl.evaluation.summary import (
    HeldOutRow,
    changes,
    likelihoods,
    summarise,
    token_counts,
    unscored,
    values_of,
)


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
            row(generated_tokens=1, finish_reason="length"),  # truncated after its first token, so not empty
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
    # The standard error of 1, 1, 0.5, 0, with deviations 0.375, 0.375, -0.125, -0.625.
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
    """If the same held-out set is drawn repeatedly, the spread of the figure equals its standard error."""
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


def test_means_come_with_the_interval_that_holds_them():
    figures = summarise(
        [row(score=value, real_logratio=1.0, generated_logratio=0.0) for value in [1.0] * 8 + [0.0] * 2]
    )
    assert (figures["score_low"], figures["score_high"]) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)  # Wilson's
    assert figures["win_rate_low"] == pytest.approx(0.7224672, abs=1e-6)
    assert figures["win_rate_high"] == 1.0
    assert figures["nll_low"] <= figures["nll"] <= figures["nll_high"]


def test_values_are_kept_prompt_by_prompt():
    rows = {
        "a": row(score={"right": 1.0}, greedy_score=0.5, real_logratio=2.0, generated_logratio=2.0),
        "b": row(real_logp=-7.0, real_tokens=3),
    }
    assert values_of(rows) == {
        "nll": {"a": 4.0, "b": 7.0},
        "real_tokens": {"a": 4.0, "b": 3.0},
        "win_rate": {"a": 0.5},
        "score/right": {"a": 1.0},
        "score_greedy": {"a": 0.5},
    }


def test_a_change_is_measured_on_the_prompts_that_both_have():
    """8 are won and 2 lost of 30 (McNemar: 2 * 56 / 1024); a prompt that only one of the two has is left out."""
    marks = [(1.0, 0.0)] * 8 + [(0.0, 1.0)] * 2 + [(1.0, 1.0)] * 20
    now = {str(number): row(score=one, real_logp=-3.0) for number, (one, _) in enumerate(marks)}
    before = {str(number): row(score=other, real_logp=-4.0) for number, (_, other) in enumerate(marks)}
    found = changes(values_of(now | {"new": row(score=0.0)}), values_of(before | {"old": row(score=0.0)}))
    assert found["score_change"] == pytest.approx(0.2)
    assert found["score_change_p"] == pytest.approx(2 * 56 / 1024)
    assert found["score_change_low"] < 0.2 < found["score_change_high"]
    assert found["nll_change"] == pytest.approx(-0.25)  # a nat less on four tokens each
    assert not any(name.startswith("win_rate") for name in found)


def test_models_that_were_measured_before_values_were_kept_have_no_change():
    assert changes(values_of({"a": row()}), {}) == {}


def test_scores_that_are_no_numbers_are_left_out_of_means_and_named():
    """A mean is over the others: that of 1 and 0, not of four prompts, and not NaN."""
    rows = {
        "a": row(score={"x": 1.0, "y": 2.0}),
        "b": row(score={"x": math.nan, "y": 4.0}),
        "c": row(score={"x": 0.0, "y": math.inf}),
        "d": row(score={"x": -math.inf}),
    }
    figures = summarise(list(rows.values()))
    assert figures["score/x"] == 0.5
    assert figures["score/y"] == 3.0
    assert unscored(rows) == {"score/x": ["b", "d"], "score/y": ["c"]}
    assert values_of(rows)["score/x"] == {"a": 1.0, "c": 0.0}


def test_likelihoods_are_values_without_answers():
    """Their change is weighted by tokens: 1 nat more for the one of 2 tokens, and none for the one of 8, is 0.1 per
    token.
    """
    tokens = {"a": 2, "b": 8}
    now, before = likelihoods({"a": -3.0, "b": -8.0}, tokens), likelihoods({"a": -2.0, "b": -8.0}, tokens)
    assert now == {"nll": {"a": 3.0, "b": 8.0}, "real_tokens": {"a": 2.0, "b": 8.0}}
    assert token_counts(now) == {"a": 2.0, "b": 8.0}
    assert changes(now, before)["nll_change"] == pytest.approx(0.1)
    assert changes(now, {}) == {}
