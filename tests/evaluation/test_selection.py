"""The best model, and how certain it is, are pure functions of measurements."""

import math

import pytest

from spin_trl.evaluation.selection import Gain, Measured, Metric, choose_best

SCORE = Metric("score", greater_is_better=True)
NLL = Metric("nll", greater_is_better=False)


def scored(rights: int, of: int = 100) -> Measured:
    """Return a model that answers the first prompts right."""
    values = {str(key): float(key < rights) for key in range(of)}
    return Measured({"score": rights / of}, {"score": values, "real_tokens": dict.fromkeys(values, 1.0)})


def likely(*nlls: float) -> Measured:
    """Return a model with these negative log-likelihoods, for real responses of two tokens each."""
    keys = [str(key) for key in range(len(nlls))]
    values = {"nll": dict(zip(keys, nlls, strict=True)), "real_tokens": dict.fromkeys(keys, 2.0)}
    return Measured({"nll": sum(nlls) / (2 * len(nlls))}, values)


@pytest.mark.parametrize(
    ("values", "greater", "expected"),
    [
        ([3.0, 2.0, 1.0], False, "c"),
        ([3.0, 2.0, 1.0], True, "a"),
        ([1.0, 2.0, 2.0], True, "b"),  # of equal ones the earliest, which cost least
        ([2.0, 2.0, 2.0], False, "a"),
        ([math.nan, 2.0, 1.0], True, "b"),
        ([None, None, 1.0], True, "c"),
        ([math.nan, None, math.nan], True, None),
        ([0.0, -1.0, math.inf], True, "a"),
    ],
)
def test_the_best_by_a_figure(values: list[float | None], greater: bool, expected: str | None) -> None:
    """It is the largest or the smallest; a figure that was not measured or is not finite is no candidate."""
    models = {
        name: Measured({} if value is None else {"figure": value}) for name, value in zip("abc", values, strict=True)
    }
    assert choose_best(models, Metric("figure", greater)) == expected


def test_the_place_of_the_best_has_a_price() -> None:
    """With 50, 53 and 56 of a hundred right, steps of 3 are less than 4, but the third is 6 better than the first."""
    models = {"a": scored(50), "b": scored(53), "c": scored(56)}
    assert choose_best(models, SCORE) == "c"
    assert choose_best(models, Metric("score", True, min_improvement=0.04)) == "c"
    assert choose_best({"a": scored(50), "b": scored(53)}, Metric("score", True, min_improvement=0.04)) == "a"
    assert choose_best(models, Metric("score", True, min_improvement=0.1)) == "a"


def test_a_gain_of_exactly_the_least_improvement_is_none() -> None:
    """It must exceed the threshold, as in transformers' early stopping."""
    assert not Metric("score", True, min_improvement=0.25).improves(scored(75), scored(50))
    assert Metric("score", True, min_improvement=0.25).improves(scored(76), scored(50))


def test_significance_asks_for_the_whole_interval() -> None:
    """Agresti and Min by hand: 3 of 100 won, none lost: (3 ± 1.96 * sqrt(4 - 9 / 102)) / 102 = -0.0086 to 0.0674; 6
    won: (6 ± 1.96 * sqrt(7 - 36 / 102)) / 102 = 0.0093 to 0.1084.
    """
    strict = Metric("score", True, significant=True)
    three, six = strict.gain(scored(53), scored(50)), strict.gain(scored(56), scored(50))
    assert three is not None
    assert six is not None
    assert (three.value, three.low, three.high) == pytest.approx((0.03, -0.0086, 0.0674), abs=1e-4)
    assert (six.value, six.low, six.high) == pytest.approx((0.06, 0.0093, 0.1084), abs=1e-4)
    assert not strict.improves(scored(53), scored(50))
    assert strict.improves(scored(56), scored(50))
    assert not Metric("score", True, 0.01, significant=True).improves(scored(56), scored(50))


def test_less_is_better_turns_the_interval_round() -> None:
    """Differences per token of -1, -2 and -3 nats have mean -2 and standard error sqrt(1 / 3); t(0.975, 2) = 4.3027."""
    gain = NLL.gain(likely(8.0, 6.0, 4.0), likely(10.0, 10.0, 10.0))
    assert gain is not None
    spread = 4.3027 / math.sqrt(3)
    assert (gain.value, gain.low, gain.high) == pytest.approx((2.0, 2 - spread, 2 + spread), abs=1e-3)
    assert NLL.improves(likely(8.0, 6.0, 4.0), likely(10.0, 10.0, 10.0))


def test_a_regression_is_surely_worse() -> None:
    """3 of a hundred prompts lost are no regression, but 6 are; without prompts to compare, nothing is certain."""
    assert not SCORE.regresses(scored(47), scored(50))
    assert SCORE.regresses(scored(44), scored(50))
    assert not SCORE.regresses(scored(56), scored(50))
    bare = Metric("kl", greater_is_better=False)
    assert bare.gain(Measured({"kl": 2.0}), Measured({"kl": 1.5})) == Gain(-0.5)
    assert not bare.regresses(Measured({"kl": 2.0}), Measured({"kl": 1.5}))
    assert bare.improves(Measured({"kl": 1.4}), Measured({"kl": 1.5}))


def test_a_model_that_is_no_number_any_more_is_worse() -> None:
    assert NLL.regresses(Measured({"nll": math.nan}), Measured({"nll": 2.0}))
    assert not NLL.regresses(Measured({"nll": 2.0}), Measured({"nll": math.nan}))
    assert not NLL.regresses(Measured({}), Measured({"nll": 2.0}))  # not checked yet
    assert NLL.improves(Measured({"nll": 2.0}), Measured({"nll": math.nan}))


def test_one_prompt_says_nothing_for_sure() -> None:
    assert not NLL.regresses(likely(9.0), likely(1.0))
    assert not Metric("nll", False, significant=True).improves(likely(1.0), likely(9.0))


def test_the_win_rates_of_two_iterations_are_of_different_games() -> None:
    """Each is measured against a different opponent, so they are not compared prompt by prompt."""
    one, other = scored(60), scored(40)
    for model in (one, other):
        model.values["win_rate"] = model.values["score"]
    gain = Metric("win_rate", True).gain(
        Measured({"win_rate": 0.6}, one.values), Measured({"win_rate": 0.4}, other.values)
    )
    assert gain == Gain(pytest.approx(0.2))
