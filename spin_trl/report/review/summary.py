"""What people's votes say, as text for a terminal: win rates by pair, reasons, and how far the reviewers agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...counts import counted
from ...evaluation.win_rates import BOTH_BAD, BOTH_GOOD, LOSS, WIN, Vote, WinRate, agreement, agreement_with_people
from ...run.reviews import COMPARED, ENOUGH_PAIRS, rate_in_words, reasons_in_words, win_rates
from .assignment import Assignment

_RESULTS_IN_WORDS = {WIN: "preferred", LOSS: "the other preferred", BOTH_GOOD: "both good", BOTH_BAD: "both bad"}


def summary_lines(
    label: str, assignment: Assignment, votes: Sequence[Vote], of_judge: Sequence[Vote] = ()
) -> list[str]:
    """Return lines on the votes on a stage.

    Args:
        label: the stage's name in words.
        assignment: assignment of its page.
        votes: people's votes.
        of_judge: the judge's votes, if the run has one.
    """
    judged = _lines_of_judge(label, votes, of_judge)
    if not votes:
        return [f"No votes on {label} so far.", *judged]
    lines = []
    for against, rate in win_rates(votes).items():
        lines.append(
            f"{label} against the {COMPARED.get(against, against)}: win rate {rate_in_words(rate)}, ties count half"
        )
        lines += [f"  {line}" for line in _lines_of_results(rate)]
        same = assignment.identical.get(against, 0)
        lines += [f"  {counted(same, 'further prompt')}: both answers are the same text, not shown"] if same else []
        if rate.pairs < ENOUGH_PAIRS:
            lines.append(f"  Fewer than {ENOUGH_PAIRS} pairs have votes, so they decide nothing.")
    alpha = agreement(votes)
    if alpha is not None:
        lines.append(f"Agreement of {counted(len({vote.reviewer for vote in votes}), 'reviewer')}: alpha {alpha:.2f}")
    return lines + judged


def _lines_of_judge(label: str, votes: Sequence[Vote], of_judge: Sequence[Vote]) -> list[str]:
    rates = win_rates(of_judge)
    lines = [
        f"The judge {of_judge[0].reviewer}: {label} against the {COMPARED.get(against, against)}: "
        f"win rate {rate_in_words(rate)}"
        for against, rate in rates.items()
    ]
    found = agreement_with_people(votes, of_judge)
    if found is not None:
        lines.append(
            f"  It agrees with people on {found.same} of {counted(found.pairs, 'pair')}, alpha {found.alpha:.2f}"
        )
    return lines


def _lines_of_results(rate: WinRate) -> Iterator[str]:
    for result, words in _RESULTS_IN_WORDS.items():
        count = rate.results.get(result, 0)
        reasons = reasons_in_words(rate, result)
        said = f" ({reasons})" if reasons else ""
        if count:
            yield f"{words}: {counted(count, 'vote')}{said}"
