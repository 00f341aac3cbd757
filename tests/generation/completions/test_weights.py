"""A server's log-probs tell which of the models that it could have it serves, or that they can't tell."""

from __future__ import annotations

import random

import pytest

from spin_trl.generation.completions.weights import WeightsComparison, WeightsVerdict, compare, logprob_difference

TOKENS = 2_000


def logprobs(seed: int) -> list[list[float]]:
    """Return the log-probs of eight responses under a model."""
    chance = random.Random(seed)
    return [[-chance.expovariate(0.5) for _ in range(TOKENS // 8)] for _ in range(8)]


def moved(rows: list[list[float]], by: float, seed: int = 9) -> list[list[float]]:
    """Return log-probs with random errors, as rounding makes them."""
    chance = random.Random(seed)
    return [[value + chance.gauss(0.0, by) for value in row] for row in rows]


START = logprobs(0)
BEFORE = moved(START, 0.2, seed=1)
EXPECTED = moved(BEFORE, 0.2, seed=2)
MODELS = {"iteration-1": EXPECTED, "iteration-0": BEFORE, "start": START}


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.02, 0.05])
@pytest.mark.parametrize("served", MODELS)
def test_the_model_that_is_served_is_named(served: str, noise: float) -> None:
    found = compare("iteration-1", MODELS, moved(MODELS[served], noise))
    assert found.found == served
    assert found.verdict == (WeightsVerdict.RIGHT if served == "iteration-1" else WeightsVerdict.WRONG)
    assert found.tokens == TOKENS


def test_a_model_that_is_not_among_them_is_none_of_them() -> None:
    found = compare("iteration-1", MODELS, logprobs(7))
    assert (found.verdict, found.found) == (WeightsVerdict.WRONG, None)


def test_weights_that_are_quantised_are_others() -> None:
    """Even if no other model is nearer."""
    found = compare("start", {"start": START}, moved(START, 0.2))
    assert (found.verdict, found.found) == (WeightsVerdict.WRONG, None)


def test_models_that_rounding_hides_can_not_be_told_apart() -> None:
    models = {"iteration-0": EXPECTED, "start": moved(EXPECTED, 0.002)}
    for served in models.values():
        for seed in (9, 10):  # also if the errors are in the direction of the other model
            found = compare("iteration-0", models, moved(served, 0.03, seed))
            assert (found.verdict, found.unsure_of) == (WeightsVerdict.UNSURE, ["start"])
    assert compare("iteration-0", models, EXPECTED).verdict == WeightsVerdict.RIGHT


def test_two_thousand_tokens_tell_models_apart_at_twice_the_rounding() -> None:
    """Random errors of 0.02 nats hide models that are 0.01 nats apart, and don't hide those that are 0.04 apart."""
    for gap, verdict in ((0.01, WeightsVerdict.UNSURE), (0.04, WeightsVerdict.RIGHT)):
        other = [[value + gap for value in row] for row in EXPECTED]
        for seed in range(5):
            found = compare("a", {"a": EXPECTED, "b": other}, moved(EXPECTED, 0.02, seed))
            assert found.verdict == verdict


def test_a_model_with_the_same_log_probs_is_not_another() -> None:
    found = compare("iteration-0", {"iteration-0": START, "start": START}, START)
    assert (found.verdict, found.apart) == (WeightsVerdict.RIGHT, {})


def test_the_numbers_are_those_of_the_differences() -> None:
    found = compare("a", {"a": [[-1.0, -2.0]], "b": [[-2.0, -4.0]]}, [[-1.0, -2.5]])
    assert found == WeightsComparison("a", 2, {"a": 0.25, "b": 1.25}, {"b": 1.5})
    assert found.preference("b") == pytest.approx(2 / 3)
    for number in ("0.2500", "1.2500", "1.5000"):
        assert number in found.in_words()
    assert found.as_entry() == {"a": 0.25, "b": 1.25}


def test_a_probability_of_zero_is_the_same_in_every_form() -> None:
    assert logprob_difference([[float("-inf"), -1.0]], [[-9999.0, -1.0]]) == 0.0


def test_a_number_that_is_none_is_no_agreement() -> None:
    assert compare("a", {"a": [[-1.0]]}, [[float("nan")]]).verdict == WeightsVerdict.WRONG


@pytest.mark.parametrize("served", [[], [[-1.0], [-2.0]], [[-1.0, -2.0]]])
def test_other_tokens_are_an_error(served: list[list[float]]) -> None:
    with pytest.raises(ValueError):
        compare("a", {"a": [[-1.0]]}, served)
