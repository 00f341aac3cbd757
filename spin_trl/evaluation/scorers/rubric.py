"""Score answers by the criteria of a rubric, which need no model and no right answer."""

from __future__ import annotations

from typing import Any

from ..rubric import Rubric
from ..scoring import Score, ScorerColumns

TAKES_RUBRIC = True
"""Tells that the function of this module makes the scorer from the recipe's rubric."""


class RubricScorer:
    """The scorer `rubric`.

    Args:
        rubric: rubric that answers are scored by.
    """

    def __init__(self, rubric: Rubric) -> None:
        self.rubric = rubric
        self.columns = ScorerColumns(required=rubric.columns)

    def __call__(self, prompt: str, real: str, generated: str, **columns: Any) -> Score:
        """Return the rubric's numbers for the generated response; prompt and real response are not used."""
        return self.rubric.score(generated, columns)


def rubric(found: Rubric) -> RubricScorer:
    """Return the scorer for a rubric."""
    return RubricScorer(found)
