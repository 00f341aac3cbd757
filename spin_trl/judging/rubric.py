"""The rubric by which the judge scores answers: criteria with weights, from a YAML file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.checks import shown
from ..config.judge import JudgeSettings
from ..config.yaml_files import read_yaml
from ..errors import RecipeError
from ..files import json_digest

LOWEST_SCORE, HIGHEST_SCORE = 1, 5
"""Ends of the scale on which the judge scores every criterion."""

SHIPPED_JUDGE_RUBRIC = Path(__file__).with_name("rubric.yaml")
"""The rubric that is used unless the recipe names another."""

MOST_JUDGED = 20
LONGEST_CRITERION = 2000

_JUDGE_CRITERION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_CRITERION_KEYS = ("name", "description", "weight")


@dataclass(frozen=True)
class JudgeCriterion:
    """What the judge scores.

    Attributes:
        name: name, as in figures.
        description: what a good answer has, in words that are sent to the judge.
        weight: its weight in the mean.
    """

    name: str
    description: str
    weight: float = 1.0


@dataclass(frozen=True)
class JudgeRubric:
    """Criteria with weights.

    Attributes:
        criteria: the criteria.
    """

    criteria: tuple[JudgeCriterion, ...]

    @property
    def digest(self) -> str:
        """A digest of names, descriptions and weights, in hexadecimal."""
        return json_digest([[one.name, one.description, one.weight] for one in self.criteria])

    @property
    def names(self) -> list[str]:
        """Names of the criteria."""
        return [one.name for one in self.criteria]

    def shares(self, scores: Mapping[str, int]) -> dict[str, float]:
        """Return the scores of all criteria, mapped from the judge's scale to 0 (worst) to 1 (best)."""
        return {name: (scores[name] - LOWEST_SCORE) / (HIGHEST_SCORE - LOWEST_SCORE) for name in self.names}

    def mean(self, shares: Mapping[str, float]) -> float:
        """Return the weighted mean of the criteria's shares."""
        total = math.fsum(one.weight for one in self.criteria)
        return math.fsum(one.weight * shares[one.name] for one in self.criteria) / total


def read_judge_rubric(path: Path | None = None) -> JudgeRubric:
    """Read a rubric.

    Args:
        path: YAML file with a list `criteria`, each with `name`, `description` and optionally `weight`; None: the shipped
            one.

    Raises:
        RecipeError: if the file can't be read, or a criterion is not one. The message names the file and the criterion.
    """
    file = path or SHIPPED_JUDGE_RUBRIC
    if not file.is_file():
        raise RecipeError(
            f"`judge_rubric` is {str(file)!r}, which is no file. Name a YAML file with a list `criteria`."
        )
    content = read_yaml(file)
    unknown = sorted(map(str, content.keys() - {"criteria"}))
    listed = content.get("criteria")
    if unknown or not isinstance(listed, list) or not 0 < len(listed) <= MOST_JUDGED:
        found = f"`{unknown[0]}`" if unknown else shown(listed)
        raise RecipeError(f"{file} has {found}; expected a list `criteria` with 1 to {MOST_JUDGED} criteria.")
    criteria = tuple(_judged_criterion(file, number, entry) for number, entry in enumerate(listed, start=1))
    names = [one.name for one in criteria]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"{file} has two criteria named {twice!r}. Rename one.")
    return JudgeRubric(criteria)


def judge_rubric_of(settings: JudgeSettings) -> JudgeRubric:
    """Return the rubric that settings name. [`read_judge_rubric`] describes the error."""
    return read_judge_rubric(None if settings.judge_rubric is None else Path(settings.judge_rubric).expanduser())


def judged_criteria(settings: JudgeSettings) -> list[str] | None:
    """Return the names of the criteria by which the judge scores answers; None if they can't be read."""
    try:
        return judge_rubric_of(settings).names
    except RecipeError:  # whoever makes the judge says what is wrong
        return None


def _judged_criterion(file: Path, number: int, entry: Any) -> JudgeCriterion:
    where = f"{file}, criterion {number}"
    if not isinstance(entry, dict):
        raise RecipeError(f"{where} is {shown(entry)}; expected {', '.join(f'`{key}`' for key in _CRITERION_KEYS)}.")
    unknown = next((str(key) for key in entry if key not in _CRITERION_KEYS), None)
    if unknown is not None:
        raise RecipeError(f"{where} has `{unknown}`; known are {', '.join(f'`{key}`' for key in _CRITERION_KEYS)}.")
    name, description = entry.get("name"), entry.get("description")
    if not isinstance(name, str) or not _JUDGE_CRITERION_NAME.fullmatch(name):
        raise RecipeError(
            f"{where}: `name` is {shown(name)}; expected up to 40 letters, digits, `_` and `-` that begin with a letter."
        )
    if not isinstance(description, str) or not 0 < len(description.strip()) <= LONGEST_CRITERION:
        raise RecipeError(
            f"{where} ({name}): `description` is {shown(description)}; expected a text of up to {LONGEST_CRITERION:,} "
            "characters that tells the judge what a good answer has."
        )
    weight = entry.get("weight", 1)
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not math.isfinite(weight) or weight <= 0:
        raise RecipeError(f"{where} ({name}): `weight` is {shown(weight)}; expected a number above 0.")
    return JudgeCriterion(name, " ".join(description.split()), float(weight))
