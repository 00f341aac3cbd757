"""The samples in a report are a fair choice plus those won and lost, and never more than the page can hold."""

import pytest

from made_up import key, sample
from spin_trl.report.html.samples import (
    BUDGET,
    FAIR,
    LONGEST_OTHER,
    LONGEST_SHOWN,
    LOST,
    MOST_OTHERS,
    WON,
    Shown,
    choose_samples,
    evenly,
    sample_of,
    sections,
    written_score,
)

ALL = [key(number) for number in range(1000)]


def test_the_fair_choice_is_spread_over_all_prompts():
    assert evenly(["a", "b", "c", "d", "e", "f"], 3) == ["a", "c", "e"]
    assert evenly(["a", "b"], 5) == ["a", "b"]
    (fair,) = choose_samples(ALL, {}, {})
    assert len(fair.keys) == FAIR + WON + LOST
    places = [ALL.index(one) for one in fair.keys]
    assert places == list(range(0, 1000, 25))


def test_with_scores_what_was_won_and_what_was_lost_is_shown_and_nothing_twice():
    starts = dict.fromkeys(ALL, 0.0) | {key(number): 1.0 for number in range(4)}
    ours = dict.fromkeys(ALL[500:], 1.0) | dict.fromkeys(ALL[:500], 0.0)
    fair, won, lost = choose_samples(ALL, ours, starts)
    assert (len(fair.keys), len(won.keys), won.total, lost.total) == (FAIR, WON, 500, 4)
    assert all(ours[one] > starts[one] for one in won.keys)
    assert lost.keys == [key(1), key(2), key(3)]  # the first is among the fair ones
    shown = [*fair.keys, *won.keys, *lost.keys]
    assert len(set(shown)) == len(shown)


def test_prompts_without_a_score_are_neither_won_nor_lost():
    assert [choice.total for choice in choose_samples(ALL[:3], {ALL[0]: 1.0}, {ALL[1]: 0.0})] == [3]
    assert choose_samples([], {}, {}) == []


def test_a_sample_has_both_answers_marked_where_they_differ_and_those_of_the_others():
    row = sample(7, real="A red kite.", generated="A blue kite.", score={"right": 0.0, "short": 1.0})
    shown = sample_of(
        8, {"start": sample(7, generated="Kites!", finish_reason="length"), "iteration 1": row}, "iteration 1"
    )
    assert [part.text for part in shown.real.parts if part.differs] == ["red"]
    assert [part.text for part in shown.answer.text.parts if part.differs] == ["blue"]
    assert shown.answer.notes == ["score: right 0, short 1", "ended with EOS"]
    assert not shown.is_same
    (other,) = shown.others
    assert (other.model, other.text.parts[0].text) == ("start", "Kites!")
    assert other.notes == ["score: 1", "truncated at the length limit"]
    assert sample_of(1, {"start": sample(1, real="x", generated="x")}, "start").is_same


@pytest.mark.parametrize(
    ("prompt", "turns"),
    [
        ("Why?", [("", "Why?")]),
        (
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
            [("system", "Be kind."), ("user", "Hi")],
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "image"}]}],
            [("user", 'See\n{"type": "image"}')],
        ),
        ([{"role": "assistant", "content": None, "tool_calls": [1]}], [("assistant", '\n{"tool_calls": [1]}')]),
        (None, [("", "")]),
        (["bare"], [("", "bare")]),
    ],
)  # fmt: skip
def test_a_prompt_may_be_a_text_or_a_conversation(prompt, turns):
    shown = sample_of(1, {"start": sample(1, prompt=prompt)}, "start")
    assert [(role, text.parts[0].text) for role, text in shown.prompt] == turns


def test_of_a_long_conversation_the_last_turns_are_shown():
    prompt = [{"role": "user", "content": f"turn {number}"} for number in range(100)]
    shown = sample_of(1, {"start": sample(1, prompt=prompt)}, "start")
    assert [text.parts[0].text for _, text in shown.prompt] == [
        "(92 earlier turns left out)",
        *(f"turn {number}" for number in range(92, 100)),
    ]


def test_long_texts_are_cut_and_that_is_said():
    rows = {"start": sample(1, generated="y" * 100_000), "iteration 0": sample(1, generated="x" * 100_000)}
    shown = sample_of(1, rows, "iteration 0")
    assert sum(len(part.text) for part in shown.answer.text.parts) == LONGEST_SHOWN
    assert shown.answer.text.left_out == 100_000 - LONGEST_SHOWN
    assert shown.others[0].text.left_out == 100_000 - LONGEST_OTHER
    assert not shown.is_marked_whole


def test_samples_beyond_the_budget_are_left_out_and_that_is_said():
    rows = {one: sample(number, real="<" * 3000, generated="&" * 3000) for number, one in enumerate(ALL[:40])}
    places = {one: number for number, one in enumerate(ALL, start=1)}
    choices = choose_samples(ALL[:40], {}, {})
    (everything,) = sections(choices, places, {"start": rows}, "start")
    assert len(everything.samples) == 40  # 12 kB and 15 kB, escaped
    (some,) = sections(choices, places, {"start": rows}, "start", budget=100_000)
    assert len(some.samples) == 3
    assert sections(choices, places, {"start": rows}, "start", budget=100) == []
    shown = Shown("start", "start/samples.jsonl", 40, [some])
    assert shown.summary == "3 of 40 samples are shown; all of them are in start/samples.jsonl."
    shown = Shown("start", "start/samples.jsonl", 40, [everything])
    assert shown.summary == "All 40 samples in start/samples.jsonl are shown."
    assert BUDGET < 3e6


@pytest.mark.parametrize(
    ("score", "text"), [(1.0, "1"), (0.12345, "0.1235"), ({"a": 0.5}, "a 0.5"), (None, "none"), (float("nan"), "none")]
)
def test_a_score_is_written(score, text):
    assert written_score(score) == text


def test_a_model_without_an_answer_to_a_prompt_is_left_out():
    places = {key(0): 1}
    stages = {"start": {}, "iteration 0": {key(0): sample(0)}}
    (section,) = sections(choose_samples([key(0)], {}, {}), places, stages, "iteration 0")
    assert section.samples[0].others == []


def test_of_many_models_the_answers_of_some_are_shown_spread_over_all():
    names = [f"iteration {t}" for t in range(20)] + [f"plain SFT, iteration {t}" for t in range(20)]
    shown = sample_of(1, {name: sample(1) for name in ["start", *names]}, "iteration 19")
    found = [answer.model for answer in shown.others]
    assert len(found) == MOST_OTHERS < shown.others_total == 40
    assert sum("SFT" in name for name in found) == MOST_OTHERS / 2
    assert found[0] == "start"
