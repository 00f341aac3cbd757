"""What a report tells of a run: its stages with what was measured of them, and its journal. Nothing here reads a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..evaluation.figures import ByPrompt, difference
from ..evaluation.intervals import Difference
from .formats import NumberFormat

SELF_PLAY = "self-play"
ITERATION_OF_START = -1
"""The iteration that the start counts as."""

_PLAIN = "sft"
_SMOOTHED = "sft-smoothing-"

_SHARES = frozenset(
    {
        "win_rate",
        "empty",
        "truncated",
        "identical",
        "real_below_generated",
        "degeneration/repetition",
        "degeneration/distinct",
        "degeneration/odd_characters",
        "degeneration/copies",
    }
)
_NAMES = {
    "nll": "NLL per token",
    "score": "score",
    "score_greedy": "greedy score",
    "win_rate": "win rate",
    "gap": "margin",
    "logps/real": "log-probability of real responses",
    "logps/generated": "log-probability of the opponent's responses",
    "length_generated": "length",
}


def figure_name(figure: str) -> str:
    """A figure's name in words."""
    for start, words in (("score_greedy/", "greedy "), ("score/", "")):
        if figure.startswith(start):
            return words + figure.removeprefix(start).replace("_", " ")
    return _NAMES.get(figure, figure)


def arm_in_words(arm: str) -> str:
    """A baseline arm's name in words."""
    if arm.startswith(_SMOOTHED):
        return f"smoothed SFT ({arm.removeprefix(_SMOOTHED)})"
    return "plain SFT" if arm == _PLAIN else arm


@dataclass(frozen=True)
class Stage:
    """A model of the run, and what was measured of it.

    Attributes:
        name: in the run directory.
        arm: `SELF_PLAY`, or the name of a baseline arm.
        iteration: 0-based; `ITERATION_OF_START` for the start.
        figures: of `metrics.json`; empty if it was not measured.
        values: the same prompt by prompt, for those that have it.
        histogram: of the log-ratios (`edges`, `real`, `generated`); may be empty.
    """

    name: str
    arm: str
    iteration: int
    figures: Mapping[str, float] = field(default_factory=dict)
    values: ByPrompt = field(default_factory=dict)
    histogram: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name in words."""
        if self.iteration == ITERATION_OF_START:
            return "start"
        of_arm = "" if self.arm == SELF_PLAY else f"{arm_in_words(self.arm)}, "
        return f"{of_arm}iteration {self.iteration}"

    def value(self, figure: str) -> float | None:
        """A figure; None if it was not measured, or is no number."""
        found = self.figures.get(figure)
        return None if found is None or not math.isfinite(found) else found

    def interval(self, figure: str) -> tuple[float, float] | None:
        """The 95 % interval of a figure, or None."""
        low, high = self.value(f"{figure}_low"), self.value(f"{figure}_high")
        return None if low is None or high is None else (low, high)


@dataclass(frozen=True)
class RunRecord:
    """A run, as its directory has it.

    Attributes:
        name: of the run.
        metric: figure by which the best iteration is chosen.
        greater_is_better: whether more of it is better.
        planned: iterations that the run is to have.
        stages: the start, the iterations, then the baseline arms, each in order.
        best: name of the stage that the run delivers; None if nothing has been decided.
        journal: entries, oldest first.
        settings: of the recipe.
    """

    name: str
    metric: str
    greater_is_better: bool
    planned: int
    stages: Sequence[Stage] = ()
    best: str | None = None
    journal: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def self_play(self) -> list[Stage]:
        """The start and the iterations."""
        return [stage for stage in self.stages if stage.arm == SELF_PLAY]

    @cached_property
    def iterations(self) -> list[Stage]:
        """The iterations alone."""
        return [stage for stage in self.self_play if stage.iteration != ITERATION_OF_START]

    @cached_property
    def start(self) -> Stage | None:
        """The start, if it has been made."""
        return next((stage for stage in self.self_play if stage.iteration == ITERATION_OF_START), None)

    @cached_property
    def arms(self) -> dict[str, list[Stage]]:
        """The baseline arms' stages, by arm."""
        found: dict[str, list[Stage]] = {}
        for stage in self.stages:
            if stage.arm != SELF_PLAY:
                found.setdefault(stage.arm, []).append(stage)
        return found

    @cached_property
    def best_stage(self) -> Stage | None:
        """The stage that the run delivers."""
        return self.stage(self.best) if self.best is not None else None

    def stage(self, name: str) -> Stage | None:
        """A stage by its name in the run directory."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def at(self, iteration: int) -> Stage | None:
        """The start or iteration with this number."""
        return next((stage for stage in self.self_play if stage.iteration == iteration), None)

    def decision(self, stage: Stage) -> Mapping[str, Any]:
        """What was decided after an iteration: the newest entry of its gate, or nothing."""
        found = [entry for entry in self.journal if entry["phase"] == "gate" and entry["stage"] == stage.name]
        return found[-1] if found else {}

    def opponent(self, stage: Stage) -> Stage | None:
        """The stage whose model an iteration started from and played against: the one before it, unless decided
        otherwise."""
        if stage.arm != SELF_PLAY or stage.iteration == ITERATION_OF_START:
            return None
        before = self.at(stage.iteration - 1)
        named = self.decision(before).get("opponent") if before is not None else None
        return (self.stage(named) if named else None) or before

    @cached_property
    def held_out(self) -> int | None:
        """Held-out prompts; None if nobody knows."""
        measured = [stage.figures["held_out"] for stage in self.stages if "held_out" in stage.figures]
        if measured:
            return int(measured[0])
        return self.prepared.get("held_out_rows")

    @cached_property
    def prepared(self) -> Mapping[str, Any]:
        """The journal's entry on the data, or nothing."""
        found = [entry for entry in self.journal if entry["phase"] == "prepare"]
        return found[-1] if found else {}

    @cached_property
    def stopped(self) -> Mapping[str, Any]:
        """The gate's entry that ended the run, or nothing: it goes on, or has come to its end."""
        newest = self.decision(self.iterations[-1]) if self.iterations else {}
        return newest if newest.get("decision") == "stopped" else {}

    @cached_property
    def is_finished(self) -> bool:
        """Whether nothing is left to play: stopped, or the last iteration trained, and measured if there is what to
        measure on."""
        if self.stopped:
            return True
        if not self.iterations or self.iterations[-1].iteration + 1 < self.planned:
            return False
        needed = [self.iterations[-1]] + [
            stage for stages in self.arms.values() for stage in stages if stage.iteration + 1 == self.planned
        ]
        has_arms = bool(self.settings.get("baseline"))
        if has_arms and len(needed) == 1:
            return False
        return not self.held_out or all(stage.figures for stage in needed)

    def form(self, figure: str) -> NumberFormat:
        """How a figure is written. Scores are shares where all of them lie between 0 and 1."""
        if figure in _SHARES:
            return NumberFormat(percent=True, digits=1)
        if figure.startswith("score"):
            found = [value for stage in self.stages if (value := stage.value(figure)) is not None]
            low, high = self._reach.get(figure, (0.0, 0.0))
            if low >= 0 and high <= 1 and all(0 <= value <= 1 for value in found):
                return NumberFormat(percent=True, digits=1)
            largest = max(map(abs, found), default=0.0)
            return NumberFormat(digits=3 if largest < 10 else 2 if largest < 100 else 1)
        if figure.startswith(("logps/", "length_", "gap", "logratio/", "kl")):
            return NumberFormat(digits=1 if figure.startswith(("logps/", "length_")) else 2)
        return NumberFormat()

    @cached_property
    def _reach(self) -> dict[str, tuple[float, float]]:
        """The smallest and the largest value that a prompt has, by figure."""
        found: dict[str, tuple[float, float]] = {}
        for stage in self.stages:
            for figure, values in stage.values.items():
                low, high = found.get(figure, (math.inf, -math.inf))
                found[figure] = min([low, *values.values()]), max([high, *values.values()])
        return found

    def difference(self, one: Stage, other: Stage, figure: str) -> Difference | None:
        """By how much a figure of one stage is above that of another, on the same prompts; None if that can't be said."""
        found = difference(figure, one.values, other.values)
        # One prompt has a difference, but no interval.
        return None if found is None or math.isnan(found.low) or math.isnan(found.high) else found

    def is_better(self, found: Difference) -> bool | None:
        """Whether a difference in the run's metric is for the better, or None if its interval leaves that open."""
        if found.low <= 0 <= found.high:
            return None
        return (found.value > 0) == self.greater_is_better
