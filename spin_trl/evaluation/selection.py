"""Choose the best of several models by one figure on the same held-out prompts, and tell how certain the choice is.

A slightly better figure on some hundred prompts may be luck. So models are compared prompt by prompt if the figure is known
for each prompt, and an improvement or a regression is judged by the whole confidence interval.
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
    """Measurements of a model.

    Attributes:
        figures: means by name.
        values: values prompt by prompt, for the figures that have them.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    values: ByPrompt = field(default_factory=dict)

    def value(self, figure: str) -> float | None:
        """Return a figure; None if it was not measured or is not finite."""
        found = self.figures.get(figure)
        return None if found is None or not math.isfinite(found) else found

    @property
    def has_diverged(self) -> bool:
        """Whether the model was evaluated but not even the likelihood of real responses is finite."""
        return bool(self.figures) and "nll" not in self.figures


@dataclass(frozen=True)
class Gain:
    """The improvement of a model over another; below zero, the model is worse.

    Attributes:
        value: improvement in the unit of the figure.
        low, high: ends of its 95 % interval; None if the figure is not known prompt by prompt.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Metric:
    """The criterion by which one model is better than another.

    Attributes:
        name: name of the figure.
        greater_is_better: whether larger values are better.
        min_improvement: improvement over the best model that must be exceeded to replace it, in the unit of the figure.
        significant: whether the whole interval of the improvement must lie above that.
    """

    name: str
    greater_is_better: bool
    min_improvement: float = 0.0
    significant: bool = False

    def gain(self, model: Measured, other: Measured) -> Gain | None:
        """Return by how much `model` is better than `other`; None if one of them lacks the figure."""
        ours, theirs = model.value(self.name), other.value(self.name)
        if ours is None or theirs is None:
            return None
        sign = 1 if self.greater_is_better else -1
        # Computed from the figures themselves, so that equal figures differ by exactly 0 however the sums were rounded.
        value = sign * (ours - theirs)
        paired = difference(self.name, model.values, other.values)
        if paired is None:
            return Gain(value)
        low, high = sorted((sign * paired.low, sign * paired.high))
        return Gain(value, low, high)

    def improves(self, model: Measured, best: Measured) -> bool:
        """Return whether `model` replaces `best`. A measured model always replaces one that was not measured."""
        gain = self.gain(model, best)
        if gain is None:
            return model.value(self.name) is not None and best.value(self.name) is None
        sure = gain.low is not None and gain.low > self.min_improvement
        return gain.value > self.min_improvement and (sure or not self.significant)

    def regresses(self, model: Measured, best: Measured) -> bool:
        """Return whether `model` is certainly worse than `best`: the whole interval is. Without one, nothing is certain."""
        gain = self.gain(model, best)
        if gain is None:
            # A model without the figure because its training has diverged is not better for that.
            return best.value(self.name) is not None and bool(model.figures)
        return gain.high is not None and gain.high < 0


def best_of(models: Mapping[ModelName, Measured], metric: Metric) -> ModelName:
    """Return the best model; if none has the figure, the newest, preferring those whose training has not diverged.

    Args:
        models: measurements by name, in the order in which the models were made.
        metric: criterion to choose by.
    """
    sound = [name for name, model in models.items() if not model.has_diverged]
    return choose_best(models, metric) or (sound or list(models))[-1]


def choose_best(models: Mapping[ModelName, Measured], metric: Metric) -> ModelName | None:
    """Return the best model; among equals the earliest, which cost least.

    Args:
        models: measurements by name, in the order in which the models were made. Each must improve on the best before it.
        metric: criterion to choose by.

    Returns:
        Its name, or None if no model has the figure.
    """
    best: ModelName | None = None
    for name, model in models.items():
        if model.value(metric.name) is not None and (best is None or metric.improves(model, models[best])):
            best = name
    return best
