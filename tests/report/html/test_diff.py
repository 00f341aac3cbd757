"""Differences between two answers are marked word by word, in bounded time, without losing a character."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spin_trl.report.html.diff import MOST_WORDS, compare_texts


def marked(parts):
    return [part.text for part in parts if part.differs]


@pytest.mark.parametrize(
    ("real", "generated", "only_real", "only_generated"),
    [
        ("A kite, red: Cleo.", "A kite, blue: Cleo.", ["red"], ["blue"]),
        ("In the barn.", "In the barn!", ["."], ["!"]),
        ("one two three", "one three", ["two"], []),
        ("one\n  two", "one two", [], []),
        ("same", "same", [], []),
        ("", "new words", [], ["new words"]),
        ("我喜欢猫", "我喜欢狗", ["猫"], ["狗"]),
        ("हिन्दी 👩‍👩‍👧 x", "हिन्दी 👩‍👩‍👦 x", ["👩‍👩‍👧"], ["👩‍👩‍👦"]),
    ],
)
def test_what_only_one_of_them_has_is_marked(real, generated, only_real, only_generated):
    of_real, of_generated, is_whole = compare_texts(real, generated)
    assert (marked(of_real), marked(of_generated)) == (only_real, only_generated)
    assert is_whole


@given(st.text(max_size=80), st.text(max_size=80))
def test_the_parts_are_the_texts(one, other):
    of_one, of_other, _ = compare_texts(one, other)
    assert "".join(part.text for part in of_one) == one
    assert "".join(part.text for part in of_other) == other
    assert not any(part.text == "" for part in [*of_one, *of_other])


def test_long_texts_are_compared_at_their_beginning_and_that_is_said():
    words = [f"word{number}" for number in range(MOST_WORDS)]
    assert compare_texts(" ".join(words), " ".join(words))[-1]
    longer, _, is_whole = compare_texts(" ".join([*words, "end"]), " ".join([*words, "other"]))
    assert not is_whole
    assert marked(longer) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("the cat " * 5000, "the " * 9000 + "cat"),
        ("a b " * 5000, "b a c " * 4000),
        ("x" * 1_000_000, "y" * 1_000_000),
        ("." * 1_000_000, "?" * 1_000_000),
    ],
)
def test_answers_that_repeat_themselves_take_no_longer(one, other):
    started = time.process_time()
    for _ in range(3):
        compare_texts(one, other)
    assert time.process_time() - started < 0.6
