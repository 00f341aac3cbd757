"""Which of several models is the best, by one figure on the same held-out prompts, and how sure that is.

A figure that is a little better on some hundred prompts may be luck. So models are compared prompt by prompt where the
figure is known for each, and what is asked of an improvement, or called a regression, is asked of the whole interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from .summary import ByPrompt, difference

ModelName = TypeVar("ModelName", bound=str)


@dataclass(frozen=True)
class Measured:
    """What was measured of a model.

    Attributes:
        figures: means, by name.
        values: the same prompt by prompt, for the figures that have it.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    values: ByPrompt = field(default_factory=dict)

    def value(self, figure: str) -> float | None:
        """A figure; None if it was not measured, or is no number."""
        found = self.figures.get(figure)
        return None if found is None or not math.isfinite(found) else found

    @property
    def has_diverged(self) -> bool:
        """Whether the model was looked at, and even the likelihood of real responses is no number."""
        return bool(self.figures) and "nll" not in self.figures


@dataclass(frozen=True)
class Gain:
    """By how much a model is better than another; below zero: worse.

    Attributes:
        value: in the unit of the figure.
        low, high: the 95 % interval around it; None where the figure is not known prompt by prompt.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Metric:
    """What makes a model better than another.

    Attributes:
        name: of the figure.
        greater_is_better: whether more of it is.
        min_improvement: more than this must be gained on the best model to take its place, in the unit of the figure.
        significant: whether the whole interval of the gain must lie above that.
    """

    name: str
    greater_is_better: bool
    min_improvement: float = 0.0
    significant: bool = False

    def gain(self, model: Measured, other: Measured) -> Gain | None:
        """By how much `model` is better than `other`; None if one of them has no such figure."""
        ours, theirs = model.value(self.name), other.value(self.name)
        if ours is None or theirs is None:
            return None
        sign = 1 if self.greater_is_better else -1
        # From the figures themselves, so that equal ones differ by nothing, however sums are rounded.
        value = sign * (ours - theirs)
        paired = difference(self.name, model.values, other.values)
        if paired is None:
            return Gain(value)
        low, high = sorted((sign * paired.low, sign * paired.high))
        return Gain(value, low, high)

    def improves(self, model: Measured, best: Measured) -> bool:
        """Whether `model` takes the place of `best`. Whatever has been measured does so for what has not."""
        gain = self.gain(model, best)
        if gain is None:
            return model.value(self.name) is not None and best.value(self.name) is None
        sure = gain.low is not None and gain.low > self.min_improvement
        return gain.value > self.min_improvement and (sure or not self.significant)

    def regresses(self, model: Measured, best: Measured) -> bool:
        """Whether `model` is worse than `best`, and surely: the whole interval says so. Without one, nothing is sure."""
        gain = self.gain(model, best)
        if gain is None:
            # A model that no number can be given any more, because its training has diverged, is no better for that.
            return best.value(self.name) is not None and bool(model.figures)
        return gain.high is not None and gain.high < 0


def best_of(models: Mapping[ModelName, Measured], metric: Metric) -> ModelName:
    """The best model; if none has the figure, the newest, unless its training has diverged.

    Args:
        models: by name, in the order in which they were made.
        metric: by which to choose.
    """
    sound = [name for name, model in models.items() if not model.has_diverged]
    return choose_best(models, metric) or (sound or list(models))[-1]


def choose_best(models: Mapping[ModelName, Measured], metric: Metric) -> ModelName | None:
    """The best model; among equals the earliest, which cost least.

    Args:
        models: by name, in the order in which they were made. Each has to improve on the best before it.
        metric: by which to choose.

    Returns:
        Its name, or None if none has the figure.
    """
    best: ModelName | None = None
    for name, model in models.items():
        if model.value(metric.name) is not None and (best is None or metric.improves(model, models[best])):
            best = name
    return best
