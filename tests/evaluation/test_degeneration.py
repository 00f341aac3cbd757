"""Signs of degeneration match numbers worked out by hand."""

import pytest

from messages import names
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.evaluation.degeneration import (
    SIGNS,
    AnsweredPrompt,
    Finding,
    findings,
    measure,
    normalised,
    odd_characters,
)


def answer(generated: str, real: str = "a b c d e f") -> AnsweredPrompt:
    """Return a response whose tokens are its words, and the real one."""
    ids = [[sum(map(ord, word)) for word in text.split()] for text in (generated, real)]
    return AnsweredPrompt(ids[0], ids[1], generated, real)


def figure(name: str, *answers: AnsweredPrompt, training: tuple[str, ...] = ()) -> float:
    return measure(answers, set(training))[f"degeneration/{name}"]


def test_phrases_that_come_again_are_counted() -> None:
    """abcabcabc has 6 four-token phrases, three of them distinct; real responses here repeat nothing."""
    assert figure("repetition", answer("a b c a b c a b c")) == pytest.approx(0.5)
    assert figure("repetition", answer("a b c a b c a b c"), answer("a b c d e")) == pytest.approx(0.25)
    assert figure("repetition", answer("a b")) == 0.0


def test_repetition_that_real_responses_have_too_is_none() -> None:
    assert figure("repetition", answer("a b c a b c a b c", real="d e f d e f d e f")) == pytest.approx(0.0)


def test_variety_is_relative_to_that_of_real_responses() -> None:
    """Two real responses have 10 pairs, nearly all distinct; the generated ones repeat the same text: 5 of 10."""
    real = ("a b c d e f", "g h i j k l")
    answers = [answer("m n o p q r", real[0]), answer("m n o p q r", real[1])]
    assert figure("distinct", *answers) == pytest.approx(5 / 10)
    # Twice as long and as varied; only as much of it is examined as the real one has.
    assert figure("distinct", answer("m n o p q r s t u v w x", real[0])) == pytest.approx(1.0)
    assert "degeneration/distinct" not in measure([answer("a", "b")], set())


def test_lengths_are_compared_over_all_tokens() -> None:
    assert figure("length_ratio", answer("a b c", "a b"), answer("a", "a b c d e f")) == pytest.approx(4 / 8)


def test_characters_from_nowhere_are_found() -> None:
    """Ten pipes in forty characters, with none in sixty characters of real responses, are a quarter of all, minus
    nothing.
    """
    answers = [answer("|" * 10 + "a b c d e " * 3, "a b c d e " * 6)]
    assert odd_characters(answers) == {"|": pytest.approx(0.25)}
    assert figure("odd_characters", *answers) == pytest.approx(0.25)
    assert figure("odd_characters", answer("b b b b", "a b a b")) == 0.0  # twice as frequent is not far more
    assert figure("odd_characters", answer("zebra", "horse")) == 0.0  # once in a short text proves nothing


def test_copies_of_training_responses_are_counted_against_those_among_real_ones() -> None:
    """Two of three answers, and one of three real responses, are in the training data; spaces don't matter."""
    answers = [answer("x y", "p q"), answer("x  y\n", "x y"), answer("new", "r s")]
    assert figure("copies", *answers, training=("x y", "u v")) == pytest.approx(1 / 3)
    assert normalised(" a\n b ") == "a b"


def test_there_is_nothing_to_say_of_no_answers() -> None:
    assert measure([], set()) == {}


def test_empty_answers_have_figures() -> None:
    assert measure([answer("", "a b c")], set()) == {
        "degeneration/repetition": 0.0,
        "degeneration/length_ratio": 0.0,
        "degeneration/odd_characters": 0.0,
        "degeneration/copies": 0.0,
    }


def test_the_settings_know_every_sign() -> None:
    off = dict.fromkeys(SIGNS)
    assert SelfPlayConfig(degeneration_warn=off).degeneration_warn == off


HEALTHY = {
    "empty": 0.0,
    "truncated": 0.1,
    "degeneration/repetition": 0.01,
    "degeneration/distinct": 0.95,
    "degeneration/length_ratio": 1.1,
    "degeneration/odd_characters": 0.0,
    "degeneration/copies": -0.02,
}


def test_healthy_answers_are_not_warned_of() -> None:
    assert findings(HEALTHY, {}, {}) == []
    assert findings({}, {}, {}) == []


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("empty", 0.3, ("30 %", "empty")),
        ("truncated", 0.6, ("60 %", "truncated")),
        ("repetition", 0.25, ("25 %", "phrases")),
        ("distinct", 0.4, ("40 %", "variety")),
        ("short", 0.2, (0.2, "long")),
        ("long", 4.2, (4.2, "long")),
        ("odd_characters", 0.08, ("8 %", "characters")),
        ("copies", 0.5, ("50 %", "training data")),
    ],
)
def test_every_sign_warns_beyond_its_threshold_and_stops_beyond_the_other(
    name: str, value: float, parts: tuple[object, ...]
) -> None:
    """Each sign does so alone, but not if it is switched off or its threshold is moved; it stops the run only if
    configured.
    """
    figures = {**HEALTHY, SIGNS[name].figure: value}
    (warning,) = findings(figures, {}, {})
    assert (warning.name, warning.stops) == (name, False)
    assert names(warning.message, *parts)
    assert findings(figures, {name: None}, {}) == []
    moved = value - 0.01 if SIGNS[name].low else value + 0.01
    assert findings(figures, {name: moved}, {}) == []
    assert findings(figures, {}, {name: moved}) == [warning]
    beyond = value + 0.01 if SIGNS[name].low else value - 0.01
    assert findings(figures, {name: None}, {name: beyond}) == [Finding(name, warning.message, stops=True)]
