"""The judge as a reviewer: it compares the pairs of a review page, each in both orders. Its votes decide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.win_rates import LOSS, TIE, WIN
from ..judging.judge import ONE_WINS, OTHER_WINS, PairVerdict, ToCompare, position_bias
from ..report.review.assignment import AssignedPair, read_assignment
from ..report.review.stored import stored_data
from ..report.review.votes import LONGEST_NOTE
from ..run.journal import Step
from ..run.reviews import BY_JUDGE, entries_on
from ..run.run import Run
from ..run.stage import Stage
from .judged import judge_of

_RESULT_OF = {ONE_WINS: WIN, OTHER_WINS: LOSS}
"""Results by the winner of a comparison whose first answer is the model's own."""


def let_judge_review(run: Run, iteration: int) -> None:
    """Let the judge compare the pairs of an iteration's review page, and record its votes, once.

    It sees what people see, and not whose an answer is. Pairs without a verdict in both orders count as skipped. Pairs that
    it has compared before an interrupt are not asked again.

    Args:
        run: the run.
        iteration: number of the iteration (0-based).
    """
    stage = Stage.of(iteration)
    assignment = read_assignment(run.directory.assignment(stage)) if run.play.judge_reviews else None
    if assignment is None or not assignment.pairs:
        return
    known = entries_on(run.journal.entries(), stage, by_judge=True)
    data = stored_data(run.directory.review_page(stage), assignment)
    if data is None or any(entry.get("page") == assignment.page for entry in known):
        return
    judge = judge_of(run.play, run.directory)
    shown = {pair["id"]: pair for pair in data["pairs"]}
    verdicts = judge.compare_many([_to_compare(shown[pair.id], pair) for pair in assignment.pairs])
    bias = position_bias(verdicts)
    run.journal.append(
        *(Step.REVIEW, stage),
        reviewer=judge.model,
        taken_by=BY_JUDGE,
        page=assignment.page,
        votes=[_vote_of(*found) for found in zip(assignment.pairs, verdicts, strict=True)],
        position={"pairs": bias.pairs, "by_position": bias.by_position},
    )


def _to_compare(shown: Mapping[str, Any], pair: AssignedPair) -> ToCompare:
    turns = [(turn["role"], turn["text"]) for turn in shown["prompt"]]
    # A single turn needs no role.
    prompt = (
        turns[0][1] if len(turns) == 1 else "\n\n".join(f"{role}: {text}" if role else text for role, text in turns)
    )
    return ToCompare(prompt, shown[pair.side]["text"], shown[pair.other_side]["text"])


def _vote_of(pair: AssignedPair, verdict: PairVerdict) -> dict[str, Any]:
    result = None if verdict.winner is None else _RESULT_OF.get(verdict.winner, TIE)
    choices = {WIN: pair.side, LOSS: pair.other_side, TIE: TIE, None: "skip"}
    note = " / ".join(dict.fromkeys(reason for reason in verdict.reasons if reason))
    return {
        "pair": pair.id,
        "against": pair.against,
        "choice": choices[result],
        "result": result,
        "reasons": [],
        "note": note[:LONGEST_NOTE],
    }
