"""A rubric: named criteria with weights, each with one rule that needs no model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RecipeError, nearest
from .figures import is_figure
from .rules import RULE_KEYS, Columns, Rule, read_rule

MEAN = "mean"
"""Name of a rubric's weighted mean among its numbers."""

LONGEST_NAME = 40
"""Maximum number of characters of a criterion's name, which is the heading of a column."""

_CRITERION_NAME = re.compile(rf"[\w-]{{1,{LONGEST_NAME}}}")
_KEYS = ("name", "weight", *RULE_KEYS)


@dataclass(frozen=True)
class Criterion:
    """A criterion of a rubric.

    Attributes:
        name: its name, which is part of a figure's name.
        weight: its weight in the mean; with 0, it is only reported.
        kind: name of its rule.
        rule: its rule.
    """

    name: str
    weight: float
    kind: str
    rule: Rule

    def score(self, answer: str, columns: Columns) -> float | None:
        """Return 1 if an answer follows the rule and 0 if not; an empty one does not.

        Args:
            answer: answer without the white space around it.
            columns: values of the row's columns.

        Returns:
            NaN if that can't be decided in time or in memory; None if the row has no values that the rule needs.

        Raises:
            ValueError: if a column has a value of another type. The message names the criterion.
        """
        try:
            # Also for an empty answer, so that a criterion that does not apply to a row never counts there.
            holds = self.rule.holds(answer, columns)
        except (TimeoutError, MemoryError):  # the latter: a pattern that refers to itself without end
            return math.nan
        except ValueError as error:
            raise ValueError(f"the criterion {self.name!r} of the rubric can't be checked: {error}") from error
        return None if holds is None else float(holds and bool(answer))


@dataclass(frozen=True)
class Rubric:
    """Criteria that answers are scored by.

    Attributes:
        criteria: the criteria, in the order of the rubric.
    """

    criteria: tuple[Criterion, ...]

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the row that the rules need."""
        return frozenset[str]().union(*(one.rule.columns for one in self.criteria))

    @property
    def numbers(self) -> list[str]:
        """Names of the numbers that [`score`] returns, the mean first."""
        return [MEAN, *(one.name for one in self.criteria)]

    def score(self, answer: str, columns: Columns) -> dict[str, float]:
        """Score an answer.

        Args:
            answer: answer; the white space around it is ignored.
            columns: values of the row's columns.

        Returns:
            `mean`: the mean of the criteria's scores by weight; and the score of each criterion, 0 or 1, by its name.
            Criteria that do not apply to the row are left out. NaN for a criterion that can't be decided in time, and then
            also for the mean.

        Raises:
            ValueError: if a column has a value of another type.
        """
        text = answer.strip()
        found = [(one, one.score(text, columns)) for one in self.criteria]
        scores = [(one, score) for one, score in found if score is not None]
        total = sum(one.weight for one, _ in scores)
        mean = {MEAN: sum(one.weight * score for one, score in scores) / total} if total else {}
        return mean | {one.name: score for one, score in scores}


def read_rubric(content: Any) -> Rubric:
    """Return the rubric that a mapping describes: `criteria`, a list of mappings.

    Args:
        content: the content of a rubric's file.

    Raises:
        RecipeError: if there is no criterion, or some can't be read. The message lists all of these by name.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("criteria"), list) or not content["criteria"]:
        raise RecipeError("a rubric is a mapping with `criteria`: a list of criteria, each with a `name` and a rule.")
    unknown = next((key for key in content if key != "criteria"), None)
    if unknown is not None:
        raise RecipeError(f"a rubric has no key {unknown!r:.80}; expected `criteria` alone.")
    listed = content["criteria"]
    names = [one.get("name") if isinstance(one, Mapping) else None for one in listed]
    criteria, wrong = [], []
    for number, (one, name) in enumerate(zip(listed, names, strict=True), start=1):
        try:
            criteria.append(_criterion(one, names))
        except RecipeError as error:
            wrong.append(f"criterion {number if name is None else repr(name)[:80]}: {error}")
    if not wrong and not any(one.weight for one in criteria):
        wrong.append("the `weight` of every criterion is 0; expected at least one above 0.")
    if wrong:
        raise RecipeError(wrong[0] if len(wrong) == 1 else "".join(f"\n- {one}" for one in wrong))
    return Rubric(tuple(criteria))


def _criterion(found: Any, names: Sequence[Any]) -> Criterion:
    """Read a criterion of a rubric whose criteria have these names."""
    if not isinstance(found, Mapping):
        raise RecipeError(f"it is {found!r:.80}; expected a mapping with a `name` and a rule.")
    name, weight = found.get("name"), found.get("weight", 1)
    if not isinstance(name, str) or not _CRITERION_NAME.fullmatch(name):
        raise RecipeError(
            f"`name` is {'null' if name is None else repr(name)[:80]}; expected at most {LONGEST_NAME} letters, digits, `_` "
            "and `-`."
        )
    if names.count(name) > 1:
        raise RecipeError("another criterion has the same `name`.")
    if name == MEAN or not is_figure(name, {MEAN, *map(str, names)}):
        # `score/mean_low` is the lower end of the interval of `score/mean`.
        raise RecipeError(
            "this `name` is that of a figure of the rubric's mean, or of another criterion; expected another."
        )
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise RecipeError(f"`weight` is {weight!r:.80}; expected a number from 0.")
    unknown = next((key for key in found if key not in _KEYS), None)
    if unknown is not None:
        raise RecipeError(f"it has no key {unknown!r:.80}; expected {', '.join(_KEYS)}{nearest(str(unknown), _KEYS)}")
    return Criterion(name, float(weight), *read_rule(found))
