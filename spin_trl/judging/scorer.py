"""The scorer `judge`: the judge's scores of answers as the figures of an evaluation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from ..evaluation.scoring import JUDGE, AnswerToScore, ManyAtOnce, Score
from .judge import Judge, ToJudge


class JudgeScorer(ManyAtOnce):
    """Scores answers with a judge.

    Args:
        judge: the judge.
    """

    is_named_alone = True
    """Its figures have its name even if it is the only scorer: `score/judge`, and `score/judge.NAME` by criterion."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def __call__(self, prompt: str, real: str, generated: str) -> Score:
        """Return the score of one answer, as [`JudgeScorer.score_many`] does for many."""
        return self.score_many([AnswerToScore(prompt, real, generated, {})])[0]

    def score_many(
        self, items: Sequence[AnswerToScore], report: Callable[[int], object] = lambda done: None
    ) -> list[Score]:
        """Score answers at the same time.

        Args:
            items: the answers.
            report: function that is called with the number of answers that are done.

        Returns:
            For each answer, the weighted mean of its criteria's scores under the empty name, and every criterion's score by
            its name, from 0 to 1; without a verdict, NaN under the empty name.
        """
        found = self.judge.scores([ToJudge(item.prompt, item.generated) for item in items], report)
        mean = self.judge.rubric.mean
        return [{"": math.nan} if shares is None else {"": mean(shares), **shares} for shares in found]

    def notes(self) -> dict[str, Any]:
        """Return for the journal what a reader of the scores must know (see [`JudgeNotes`])."""
        return {JUDGE: dataclasses.asdict(self.judge.notes())}
