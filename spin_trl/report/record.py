"""A run read back from its directory: its stages with their figures, its decisions and its settings.

Everything that needs the results of a run reads them here, including the gate, the console, trackers, cards and comparisons.
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
from ..evaluation.figures import RETAINED, figure_of, is_score
from ..evaluation.intervals import Difference
from ..evaluation.selection import Measured
from ..evaluation.summary import difference
from ..evaluation.win_rates import WinRate
from ..run.directory import RunDirectory
from ..run.journal import DATA, RETENTION, TEST, UNTRAINED, Decisions, Entry, Journal, Step, ends_of_arms, newest
from ..run.objects import PLAYED_AGAIN, best_stage, read_named_numbers, read_numbers, read_object
from ..run.reviews import reviews_in, votes_on, win_rates
from ..run.stage import BASE, DPO, SELF_PLAY, START, Stage
from .formats import NumberFormat

REPORTED_DEFAULTS: Mapping[str, Any] = {"num_iterations": 3, "metric_for_best_iteration": "nll"}
"""Defaults of the settings that the report uses, repeated here because importing the configuration would import torch."""


@dataclass(frozen=True, kw_only=True)
class StageRecord(Measured):
    """A model of the run and its figures.

    Attributes:
        name: stage of the model.
        figures: figures from `metrics.json`; empty if the model was not measured.
        values: figures per prompt, for those that have them.
        histogram: histogram of the log-ratios (`edges`, `real`, `generated`); may be empty.
        test: measurements on the test set; without figures if it was not measured on it. Nothing is decided by them.
        retention: the same on the retention set, with its changes from the start.
    """

    name: Stage
    histogram: Mapping[str, Sequence[float]] = field(default_factory=dict)
    test: Measured = field(default_factory=Measured)
    retention: Measured = field(default_factory=Measured)

    @property
    def arm(self) -> str:
        """The arm: `self-play`, the name of a baseline arm, `base`, or `dpo`."""
        return self.name.arm

    @property
    def iteration(self) -> int:
        """The iteration, 0-based; -1 for the start, -2 for the base."""
        return self.name.iteration

    @property
    def label(self) -> str:
        """The stage's name in words."""
        return self.name.label

    def interval(self, figure: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a figure, or None."""
        return interval_of(self, figure)


def interval_of(measured: Measured, figure: str) -> tuple[float, float] | None:
    """Return the 95 % interval of a figure, or None."""
    low, high = measured.value(f"{figure}_low"), measured.value(f"{figure}_high")
    return None if low is None or high is None else (low, high)


@dataclass(frozen=True)
class RunRecord:
    """A run as recorded in its directory.

    Attributes:
        name: name of the run.
        metric: figure by which the best iteration is chosen.
        greater_is_better: whether higher values of the metric are better.
        planned: number of iterations planned.
        stages: the base if the run did SFT first, the start, the iterations, then the baseline arms, and DPO's
            results, each in order.
        best: name of the stage that the run delivers; None if nothing has been decided.
        journal: journal entries, oldest first.
        settings: settings in the recipe.
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
        """The iterations without the start."""
        return [stage for stage in self.self_play if not stage.name.is_start]

    @cached_property
    def start(self) -> StageRecord | None:
        """The start, or None if it does not exist yet."""
        return self.stage(START)

    @cached_property
    def base(self) -> StageRecord | None:
        """The given model, if the run trained its start from it with SFT."""
        return self.stage(BASE)

    @cached_property
    def arms(self) -> dict[str, list[StageRecord]]:
        """The baseline arms' stages, by arm."""
        found: dict[str, list[StageRecord]] = {}
        for stage in self.stages:
            if stage.name.is_of_baseline:
                found.setdefault(stage.arm, []).append(stage)
        return found

    @cached_property
    def ended_arms(self) -> dict[Stage, Entry]:
        """The journal's entries on diverged training that ended a baseline arm, by stage."""
        return ends_of_arms(self.journal)

    @cached_property
    def after_dpo(self) -> list[StageRecord]:
        """The stages that DPO trained on preference pairs."""
        return [stage for stage in self.stages if stage.arm == DPO]

    @cached_property
    def best_stage(self) -> StageRecord | None:
        """The stage that the run delivers."""
        return self.stage(self.best) if self.best is not None else None

    def stage(self, name: str) -> StageRecord | None:
        """Return a stage by its name in the run directory, or None."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def played(self, iteration: int) -> dict[Stage, StageRecord]:
        """Return the start and the iterations up to this one, by name."""
        return {stage.name: stage for stage in self.self_play if stage.iteration <= iteration}

    def candidates(self, iteration: int) -> dict[Stage, StageRecord]:
        """Return the candidates for the best model, by name: the start and the iterations up to this one, without those that
        the gate rejected because people found them worse."""
        return {name: stage for name, stage in self.played(iteration).items() if name not in self.rejected}

    @cached_property
    def rejected(self) -> frozenset[Stage]:
        """The iterations that the gate rejected because people found them worse."""
        return frozenset(one.name for one in self.iterations if self.decision(one).get("rejected"))

    @cached_property
    def reviews(self) -> dict[Stage, dict[str, WinRate]]:
        """The iterations' win rates in people's votes, by what was compared; only for iterations with votes."""
        entries = reviews_in(self.journal)
        found = {stage.name: win_rates(votes_on(entries, stage.name)) for stage in self.iterations}
        return {stage: rates for stage, rates in found.items() if rates}

    def at(self, iteration: int) -> StageRecord | None:
        """Return the iteration with this number (-1: the start), or None."""
        return next((stage for stage in self.self_play if stage.iteration == iteration), None)

    @cached_property
    def decisions(self) -> Decisions:
        """The gate's decisions after the iterations."""
        return Decisions(self.journal)

    def decision(self, stage: StageRecord) -> Entry:
        """Return the gate's entry on an iteration or on DPO's result; empty if there is none."""
        if stage.arm == DPO:
            return self.decisions.on(stage.name)
        return self.decisions.after(stage.iteration) if stage.arm == SELF_PLAY else {}

    def opponent(self, stage: StageRecord) -> StageRecord | None:
        """Return the stage that an iteration started from and played against: the previous one, unless the gate decided
        otherwise. For DPO's result, the stage that it started from. The start and the base have none."""
        if stage.arm == DPO:
            return self.stage(stage.name.origin)
        if stage.arm != SELF_PLAY or stage.name.is_start:
            return None
        return self.stage(self.decisions.opponent(stage.iteration)) or self.at(stage.iteration - 1)

    @cached_property
    def held_out(self) -> int | None:
        """Number of held-out prompts; None if unknown."""
        measured = [stage.figures["held_out"] for stage in self.stages if "held_out" in stage.figures]
        if measured:
            return int(measured[0])
        return self.prepared.get("held_out_rows")

    @cached_property
    def tested(self) -> list[StageRecord]:
        """The stages that were measured on the test set."""
        return [stage for stage in self.stages if stage.test.figures]

    @cached_property
    def test_metric(self) -> str:
        """The figure that models are compared by on the test set: the run's metric, or `nll` if that needs an opponent."""
        is_measured = any(stage.test.value(self.metric) is not None for stage in self.tested)
        return self.metric if is_measured else "nll"

    @cached_property
    def retained(self) -> list[StageRecord]:
        """The stages that were measured on the retention set."""
        return [stage for stage in self.stages if stage.retention.figures]

    def prepared_set(self, name: str) -> Entry:
        """Return the journal's entry on the data of the test or the retention set; empty if there is none."""
        return newest(self.journal, Step.PREPARE, name)

    @cached_property
    def num_tested(self) -> int:
        """Number of prompts in the test set; 0 without one."""
        return int(self.prepared_set(TEST).get("rows") or 0)

    @cached_property
    def prepared(self) -> Entry:
        """The journal's entry on the data; empty if there is none."""
        return newest(self.journal, Step.PREPARE, DATA)

    @cached_property
    def stopped(self) -> Entry:
        """The gate's entry that stopped the run early; empty if it was not stopped."""
        newest = self.decision(self.iterations[-1]) if self.iterations else {}
        return self.untrained or (newest if newest.get("decision") == "stopped" else {})

    @cached_property
    def untrained(self) -> Entry:
        """The gate's entry that stopped the run before an iteration was trained; empty if there is none."""
        newest = self.decisions.after(self.iterations[-1].iteration + 1 if self.iterations else 0)
        return newest if newest.get("decision") == UNTRAINED else {}

    @cached_property
    def is_finished(self) -> bool:
        """Whether nothing is left to play: the run was stopped, or the last iteration has been trained and, if there are
        held-out prompts, measured. Baseline arms that have ended are not waited for."""
        if self.stopped:
            return True
        if not self.iterations or self.iterations[-1].iteration + 1 < self.planned:
            return False
        needed = [self.iterations[-1]] + [
            stage for stages in self.arms.values() for stage in stages if stage.iteration + 1 == self.planned
        ]
        ended = {stage.arm for stage in self.ended_arms}
        if self.settings.get("baseline") and len(needed) == 1 and (not ended or set(self.arms) - ended):
            return False  # an arm that has not ended is still to be trained
        return not self.held_out or all(stage.figures for stage in needed)

    def form(self, figure: str) -> NumberFormat:
        """Return the number format of a figure. Scores are shown in percent if all of them lie between 0 and 1."""
        known, name = figure_of(figure), figure.removeprefix(RETAINED)
        if not is_score(name):
            return NumberFormat(known.percent, 1 if known.percent else known.digits)
        everything = self._measured(is_retention=name != figure)
        found = [value for one in everything if (value := one.value(name)) is not None]
        low, high = self._reach[name != figure].get(name, (0.0, 0.0))
        if low >= 0 and high <= 1 and all(0 <= value <= 1 for value in found):
            return NumberFormat(percent=True, digits=1)
        largest = max(map(abs, found), default=0.0)
        return NumberFormat(digits=3 if largest < 10 else 2 if largest < 100 else 1)

    def _measured(self, *, is_retention: bool) -> list[Measured]:
        """Return all measurements on the retention set, or on the held-out prompts and the test set."""
        if is_retention:
            return [stage.retention for stage in self.stages]
        return [one for stage in self.stages for one in (stage, stage.test)]

    @cached_property
    def _reach(self) -> dict[bool, dict[str, tuple[float, float]]]:
        """The smallest and the largest value of any prompt, by figure: of the retention set (True), and of the others."""
        return {is_retention: _reach_of(self._measured(is_retention=is_retention)) for is_retention in (True, False)}

    def difference(self, one: Measured, other: Measured, figure: str) -> Difference | None:
        """Return by how much a figure of one model exceeds another's on the same prompts; None if there is no interval."""
        found = difference(figure, one.values, other.values)
        # A single prompt has a difference but no interval.
        return None if found is None or math.isnan(found.low) or math.isnan(found.high) else found

    def is_better(self, found: Difference) -> bool | None:
        """Return whether a difference in the run's metric is an improvement; None if its interval includes zero."""
        if found.low <= 0 <= found.high:
            return None
        return (found.value > 0) == self.greater_is_better


def _reach_of(measured: Sequence[Measured]) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest value of any prompt, by figure."""
    found: dict[str, tuple[float, float]] = {}
    for one in measured:
        for figure, values in one.values.items():
            low, high = found.get(figure, (math.inf, -math.inf))
            found[figure] = min([low, *values.values()]), max([high, *values.values()])
    return found


def read_record(directory: RunDirectory) -> RunRecord:
    """Read the figures, decisions and settings of a run.

    Raises:
        RunDirectoryError: if there is no run, or one of its files is damaged.
        ValueError: if a file is not valid JSON or the recipe is not valid YAML.
    """
    settings = _settings(directory)
    journal = [entry for entry in Journal(directory.journal).entries() if isinstance(entry, dict)]
    measured = (Step.TRAIN, Step.EVALUATE, Step.RETENTION, Step.TEST)
    made = {entry.get("stage") for entry in journal if entry.get("phase") in measured}
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
    """Read the held-out figures of a stage; empty if it was not measured.

    Raises:
        RunDirectoryError: if the file does not contain figures; the message names it.
    """
    return read_numbers(directory.metrics(stage))


def read_stage(directory: RunDirectory, stage: Stage) -> StageRecord:
    """Read the figures of a stage; they are empty if it was not measured.

    Raises:
        RunDirectoryError: if a file contains something else; the message names it.
    """
    return StageRecord(
        read_figures(directory, stage),
        read_named_numbers(directory.values(stage)),
        name=stage,
        histogram=_histogram(directory.histograms(stage)),
        test=read_measured(directory, stage, TEST),
        retention=read_measured(directory, stage, RETENTION),
    )


def read_shown_figures(directory: RunDirectory, stage: Stage) -> dict[str, float]:
    """Read the figures of a stage that tables and trackers show: the held-out figures, and those on the retention set, whose
    names begin with `retention/`.

    Raises:
        RunDirectoryError: if a file does not contain figures; the message names it.
    """
    kept = read_numbers(directory.measured_on(stage, RETENTION) / "metrics.json")
    return read_figures(directory, stage) | {f"{RETAINED}{name}": value for name, value in kept.items()}


def read_measured(directory: RunDirectory, stage: Stage, name: str) -> Measured:
    """Read a stage's figures on the test or the retention set; they are empty if it was not measured on it.

    Raises:
        RunDirectoryError: if a file contains something else; the message names it.
    """
    folder = directory.measured_on(stage, name)
    return Measured(read_numbers(folder / "metrics.json"), read_named_numbers(folder / "values.json"))


def _histogram(path: Path) -> dict[str, list[float]]:
    """Read a histogram: its bin edges, and the counts in the bins."""
    found = read_object(path)
    edges = found.get("edges")
    for name, values in found.items():
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            raise RunDirectoryError(
                f"{path} is damaged: `{name}` is {values!r:.60}, not a list of numbers. {PLAYED_AGAIN}"
            )
        if not isinstance(edges, list) or (name != "edges" and len(values) + 1 != len(edges)):
            raise RunDirectoryError(f"{path} is damaged: `{name}` does not match `edges` in length. {PLAYED_AGAIN}")
    return found


def _settings(directory: RunDirectory) -> dict[str, Any]:
    if not directory.recipe.is_file():
        raise RunDirectoryError(f"{directory.path} is not a run directory: it contains no {directory.recipe.name}.")
    try:
        found = parse_yaml(read_text(directory.recipe))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise RunDirectoryError(f"{directory.recipe} can't be read: {credentials.yaml_problem(error)}") from None
    if not isinstance(found, dict):
        raise RunDirectoryError(f"{directory.recipe} does not contain the settings of a run.")
    credentials.refuse_credentials(found, directory.recipe)
    return found
