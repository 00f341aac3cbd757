"""Votes are read back from the journal: the newest of each reviewer on each pair, without skipped ones."""

import math

import pytest

from messages import names
from reviewed import entry_of
from spin_trl.evaluation.win_rates import LOSS, WIN, Vote, win_rate
from spin_trl.run.reviews import (
    ENOUGH_PAIRS,
    is_worse,
    newest_votes,
    rate_in_words,
    review_figures,
    reviews_in,
    votes_on,
    win_rates,
    worse_by_votes,
)


def test_a_later_vote_replaces_an_earlier_one_and_a_skipped_pair_is_no_vote() -> None:
    entries = [entry_of("iteration-0", ["won", "won", None]), entry_of("iteration-0", ["lost"])]
    assert [(vote.pair, vote.result) for vote in votes_on(entries, "iteration-0")] == [
        ("pair-1", "won"),
        ("pair-0", "lost"),
    ]
    assert set(newest_votes(entries, "iteration-0")) == {("Ann", f"pair-{number}") for number in range(3)}


def test_votes_of_other_reviewers_and_other_stages_are_kept_apart() -> None:
    entries = [entry_of("iteration-0", ["won"]), entry_of("iteration-0", ["lost"], reviewer="Bob"),
               entry_of("iteration-1", ["lost"]), {"phase": "gate", "stage": "iteration-0"}]  # fmt: skip
    assert [vote.result for vote in votes_on(entries, "iteration-0")] == ["won", "lost"]
    assert [vote.result for vote in votes_on(entries, "iteration-1")] == ["lost"]
    assert len(reviews_in(entries)) == 3


def test_comparisons_are_in_the_same_order_however_votes_came() -> None:
    votes = [
        Vote("Ann", str(number), other, WIN) for number, other in enumerate(("real", "start", "previous", "real"))
    ]
    assert list(win_rates(votes)) == ["previous", "start", "real"]


def test_figures_are_named_by_what_was_compared() -> None:
    """3 of 4 pairs won against the start: Wilson's interval is 0.3006 to 0.9544."""
    found = review_figures([entry_of("iteration-0", ["won", "won", "won", "lost"], "start")], "iteration-0")
    assert found["review/start"] == 0.75
    assert (found["review/start_low"], found["review/start_high"]) == (
        pytest.approx(0.30064, abs=1e-4),
        pytest.approx(0.95441, abs=1e-4),
    )
    assert review_figures([], "iteration-0") == {}


@pytest.mark.parametrize(
    ("won", "lost", "expected"),
    [
        (3, 17, True),  # Wilson's interval ends at 0.36
        (4, 16, False),  # and here at 0.416
        (0, ENOUGH_PAIRS - 1, False),
        (0, ENOUGH_PAIRS, True),
        (20, 0, False),
    ],
)
def test_a_model_is_found_worse_by_the_whole_interval_from_enough_pairs(won: int, lost: int, expected: bool) -> None:
    votes = [Vote("Ann", str(number), "previous", WIN if number < won else LOSS) for number in range(won + lost)]
    assert is_worse(win_rate(votes), 0.4) is expected
    entry = entry_of("iteration-0", ["won"] * won + ["lost"] * lost)
    found = worse_by_votes([entry], "iteration-0", 0.4)
    assert [names(sentence, "review_min_win_rate", "40 %", f"{won + lost} pairs") for sentence in found] == (
        [True] if expected else []
    )


def test_that_people_prefer_the_real_response_says_nothing_against_the_model() -> None:
    assert worse_by_votes([entry_of("iteration-0", ["lost"] * 40, "real")], "iteration-0", 0.4) == []


def test_a_win_rate_in_words_has_its_interval_pairs_and_reviewers() -> None:
    votes = [Vote(name, str(pair), "start", WIN) for name in ("Ann", "Bob") for pair in range(20)]
    assert names(rate_in_words(win_rates(votes)["start"]), "100.0 %", "83.9", "20 pairs", "2 reviewers")
    one = win_rate([Vote("Ann", "0", "start", "both_good")])
    assert math.isnan(one.low)
    assert names(rate_in_words(one), "50.0 %", "1 pair")
