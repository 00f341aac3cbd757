"""Win rates, their intervals and the reviewers' agreement match numbers worked out by hand."""

from collections.abc import Sequence

import pytest

from spin_trl.evaluation.win_rates import (
    BOTH_BAD,
    BOTH_GOOD,
    LOSS,
    TIE,
    WIN,
    Vote,
    agreement,
    agreement_with_people,
    win_rate,
)


def votes(results: Sequence[str], reviewer: str = "Ann", reasons: Sequence[str] = ()) -> list[Vote]:
    return [Vote(reviewer, f"pair-{number}", "previous", result, reasons) for number, result in enumerate(results)]


def test_ties_count_half() -> None:
    found = win_rate(votes([WIN, WIN, LOSS, BOTH_GOOD, BOTH_BAD, WIN, WIN, LOSS]))
    assert found.value == 5 / 8
    assert (found.pairs, found.votes, found.reviewers) == (8, 8, 1)
    assert found.results == {WIN: 4, LOSS: 2, BOTH_GOOD: 1, BOTH_BAD: 1}


def test_without_ties_the_interval_is_wilsons() -> None:
    """For 3 of 20: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964."""
    found = win_rate(votes([WIN] * 3 + [LOSS] * 17))
    assert (found.low, found.high) == (pytest.approx(0.0523687, abs=1e-6), pytest.approx(0.3604189, abs=1e-6))


def test_with_ties_the_interval_is_students_and_stays_within_0_and_1() -> None:
    """1, 1, 1 and 0.5 have mean 0.875 and standard error sqrt(0.1875 / 3 / 4) = 0.125; Student's quantile is 3.18245."""
    found = win_rate(votes([WIN, WIN, WIN, BOTH_GOOD]))
    assert found.value == 0.875
    assert (found.low, found.high) == (pytest.approx(0.875 - 3.182446 * 0.125, abs=1e-5), 1.0)


def test_a_pair_with_several_votes_counts_once() -> None:
    """Two reviewers agree on one pair (1) and disagree on the other (0.5)."""
    found = win_rate([*votes([WIN, WIN]), *votes([WIN, LOSS], "Bob")])
    assert (found.value, found.pairs, found.votes, found.reviewers) == (0.75, 2, 4, 2)


def test_reasons_are_counted_by_result() -> None:
    found = win_rate([*votes([LOSS], reasons=["wrong", "rude"]), *votes([LOSS, WIN], "Bob", ["wrong"])])
    assert found.reasons == {LOSS: {"wrong": 2, "rude": 1}, WIN: {"wrong": 1}}


def test_agreement_is_krippendorffs_alpha() -> None:
    """Nominal alpha by hand: of 4 pairs with two votes each one disagrees. Coincidences: 4 won-won, 2 lost-lost, 1 won-lost
    and 1 lost-won; 5 won and 3 lost. Observed disagreement 2/8, expected 2·5·3/(8·7): alpha = 1 - 0.25 / (30/56).
    """
    found = agreement([*votes([WIN, WIN, LOSS, WIN]), *votes([WIN, WIN, LOSS, LOSS], "Bob")])
    assert found == pytest.approx(1 - 0.25 * 56 / 30)


def test_agreement_needs_two_votes_on_a_pair() -> None:
    assert agreement(votes([WIN, LOSS])) is None
    assert agreement([]) is None
    assert agreement([*votes([WIN]), Vote("Bob", "another", "previous", LOSS)]) is None


def test_reviewers_who_always_give_the_same_result_agree() -> None:
    assert agreement([*votes([LOSS, LOSS]), *votes([LOSS, LOSS], "Bob")]) == 1.0


def test_a_pair_that_one_reviewer_left_out_does_not_count_against_agreement() -> None:
    assert agreement([*votes([WIN, LOSS, WIN]), *votes([WIN, LOSS], "Bob")]) == 1.0


def test_a_judges_agreement_with_people_is_by_what_most_prefer() -> None:
    """Ann and Bob are undecided on the second pair, and so is the judge; on the third it prefers the other answer."""
    people = [*votes([WIN, WIN, LOSS]), *votes([WIN, LOSS, LOSS, WIN], "Bob")]
    found = agreement_with_people(people, votes([WIN, TIE, WIN], "judge"))
    assert found is not None
    assert (found.pairs, found.same) == (3, 2)
    # Coincidences of won, tied, lost: 2, 2 and 0 of the same, 1 won-lost and 1 lost-won; of 6 results 3 are won, 2 tied and
    # 1 lost: observed 2/6, expected 2·(3·2 + 3·1 + 2·1)/(6·5).
    assert found.alpha == pytest.approx(1 - (2 / 6) / (22 / 30))
    assert agreement_with_people(people, []) is None
    assert agreement_with_people([], votes([WIN])) is None
