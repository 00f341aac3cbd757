"""A run read back from its directory: its stages with what was measured of them, its decisions, its settings.

Whoever asks what a run has found asks here: the gate, the console, trackers, cards and comparisons, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ..config import credentials
from ..config.yaml_files import read_text
from ..config.yaml_text import parse_yaml
from ..errors import RunDirectoryError
from ..evaluation.figures import figure_of, is_score
from ..evaluation.intervals import Difference
from ..evaluation.selection import Measured
from ..evaluation.summary import difference
from ..run.directory import RunDirectory
from ..run.journal import DATA, Decisions, Entry, Journal, Step, newest
from ..run.objects import PLAYED_AGAIN, best_stage, read_named_numbers, read_numbers, read_object
from ..run.stage import SELF_PLAY, START, Stage
from .formats import NumberFormat

REPORTED_DEFAULTS: Mapping[str, Any] = {"num_iterations": 3, "metric_for_best_iteration": "nll"}
"""Defaults of settings that the report goes by. Those of the configuration itself would bring torch along."""


@dataclass(frozen=True, kw_only=True)
class StageRecord(Measured):
    """A model of the run, and what was measured of it.

    Attributes:
        name: its stage.
        figures: of `metrics.json`; empty if it was not measured.
        values: the same prompt by prompt, for those that have it.
        histogram: of the log-ratios (`edges`, `real`, `generated`); may be empty.
    """

    name: Stage
    histogram: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def arm(self) -> str:
        """`self-play`, or the name of a baseline arm."""
        return self.name.arm

    @property
    def iteration(self) -> int:
        """0-based; -1 for the start."""
        return self.name.iteration

    @property
    def label(self) -> str:
        """Its name in words."""
        return self.name.label

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
    stages: Sequence[StageRecord] = ()
    best: str | None = None
    journal: Sequence[Entry] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def self_play(self) -> list[StageRecord]:
        """The start and the iterations."""
        return [stage for stage in self.stages if stage.arm == SELF_PLAY]

    @cached_property
    def iterations(self) -> list[StageRecord]:
        """The iterations alone."""
        return [stage for stage in self.self_play if not stage.name.is_start]

    @cached_property
    def start(self) -> StageRecord | None:
        """The start, if it has been made."""
        return self.stage(START)

    @cached_property
    def arms(self) -> dict[str, list[StageRecord]]:
        """The baseline arms' stages, by arm."""
        found: dict[str, list[StageRecord]] = {}
        for stage in self.stages:
            if stage.arm != SELF_PLAY:
                found.setdefault(stage.arm, []).append(stage)
        return found

    @cached_property
    def best_stage(self) -> StageRecord | None:
        """The stage that the run delivers."""
        return self.stage(self.best) if self.best is not None else None

    def stage(self, name: str) -> StageRecord | None:
        """A stage by its name in the run directory."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def candidates(self, iteration: int) -> dict[Stage, StageRecord]:
        """The start and the iterations up to this one, by name: one of them is the best."""
        return {stage.name: stage for stage in self.self_play if stage.iteration <= iteration}

    def at(self, iteration: int) -> StageRecord | None:
        """The start or iteration with this number."""
        return next((stage for stage in self.self_play if stage.iteration == iteration), None)

    @cached_property
    def decisions(self) -> Decisions:
        """What was decided after the iterations."""
        return Decisions(self.journal)

    def decision(self, stage: StageRecord) -> Entry:
        """What was decided after an iteration, or nothing."""
        return self.decisions.after(stage.iteration) if stage.arm == SELF_PLAY else {}

    def opponent(self, stage: StageRecord) -> StageRecord | None:
        """The stage whose model an iteration started from and played against: the one before it, unless decided
        otherwise."""
        if stage.arm != SELF_PLAY or stage.name.is_start:
            return None
        return self.stage(self.decisions.opponent(stage.iteration)) or self.at(stage.iteration - 1)

    @cached_property
    def held_out(self) -> int | None:
        """Held-out prompts; None if nobody knows."""
        measured = [stage.figures["held_out"] for stage in self.stages if "held_out" in stage.figures]
        if measured:
            return int(measured[0])
        return self.prepared.get("held_out_rows")

    @cached_property
    def prepared(self) -> Entry:
        """The journal's entry on the data, or nothing."""
        return newest(self.journal, Step.PREPARE, DATA)

    @cached_property
    def stopped(self) -> Entry:
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
        known = figure_of(figure)
        if not is_score(figure):
            return NumberFormat(known.percent, 1 if known.percent else known.digits)
        found = [value for stage in self.stages if (value := stage.value(figure)) is not None]
        low, high = self._reach.get(figure, (0.0, 0.0))
        if low >= 0 and high <= 1 and all(0 <= value <= 1 for value in found):
            return NumberFormat(percent=True, digits=1)
        largest = max(map(abs, found), default=0.0)
        return NumberFormat(digits=3 if largest < 10 else 2 if largest < 100 else 1)

    @cached_property
    def _reach(self) -> dict[str, tuple[float, float]]:
        """The smallest and the largest value that a prompt has, by figure."""
        found: dict[str, tuple[float, float]] = {}
        for stage in self.stages:
            for figure, values in stage.values.items():
                low, high = found.get(figure, (math.inf, -math.inf))
                found[figure] = min([low, *values.values()]), max([high, *values.values()])
        return found

    def difference(self, one: StageRecord, other: StageRecord, figure: str) -> Difference | None:
        """By how much a figure of one stage is above that of another, on the same prompts; None if that can't be said."""
        found = difference(figure, one.values, other.values)
        # One prompt has a difference, but no interval.
        return None if found is None or math.isnan(found.low) or math.isnan(found.high) else found

    def is_better(self, found: Difference) -> bool | None:
        """Whether a difference in the run's metric is for the better, or None if its interval leaves that open."""
        if found.low <= 0 <= found.high:
            return None
        return (found.value > 0) == self.greater_is_better


def read_record(directory: RunDirectory) -> RunRecord:
    """The figures, decisions and settings of a run.

    Raises:
        RunDirectoryError: there is no run.
        ValueError: a file is no JSON, or the recipe no YAML.
    """
    settings = _settings(directory)
    journal = [entry for entry in Journal(directory.journal).entries() if isinstance(entry, dict)]
    made = {entry.get("stage") for entry in journal if entry.get("phase") in (Step.TRAIN, Step.EVALUATE)}
    metric = str(settings.get("metric_for_best_iteration") or REPORTED_DEFAULTS["metric_for_best_iteration"])
    greater = settings.get("greater_is_better_iteration")
    return RunRecord(
        name=directory.path.resolve().name,
        metric=metric,
        greater_is_better=figure_of(metric).greater_is_better if greater is None else bool(greater),
        planned=int(settings.get("num_iterations") or REPORTED_DEFAULTS["num_iterations"]),
        stages=[
            read_stage(directory, name)
            for name in directory.stages()
            if name in made or directory.metrics(name).exists()
        ],
        best=best_stage(directory),
        journal=journal,
        settings=settings,
    )


def read_figures(directory: RunDirectory, stage: Stage) -> dict[str, float]:
    """The held-out figures of a stage; nothing if it was not measured.

    Raises:
        RunDirectoryError: what is there are no figures; the message names the file.
    """
    return read_numbers(directory.metrics(stage))


def read_stage(directory: RunDirectory, stage: Stage) -> StageRecord:
    """What was measured of a stage; nothing if it was not.

    Raises:
        RunDirectoryError: a file holds something else; the message names it.
    """
    return StageRecord(
        read_figures(directory, stage),
        read_named_numbers(directory.values(stage)),
        name=stage,
        histogram=_histogram(directory.histograms(stage)),
    )


def _histogram(path: Path) -> dict[str, list[float]]:
    """Edges, and counts between them."""
    found = read_object(path)
    edges = found.get("edges")
    for name, values in found.items():
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            raise RunDirectoryError(
                f"{path} is damaged: `{name}` is {values!r:.60} instead of numbers. {PLAYED_AGAIN}"
            )
        if not isinstance(edges, list) or (name != "edges" and len(values) + 1 != len(edges)):
            raise RunDirectoryError(f"{path} is damaged: `{name}` does not fit its `edges`. {PLAYED_AGAIN}")
    return found


def _settings(directory: RunDirectory) -> dict[str, Any]:
    if not directory.recipe.is_file():
        raise RunDirectoryError(f"{directory.path} is no run directory: there is no {directory.recipe.name} in it.")
    try:
        found = parse_yaml(read_text(directory.recipe))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise RunDirectoryError(f"{directory.recipe} can't be read: {credentials.yaml_problem(error)}") from None
    if not isinstance(found, dict):
        raise RunDirectoryError(f"{directory.recipe} holds no settings of a run.")
    credentials.refuse_credentials(found, directory.recipe)
    return found
