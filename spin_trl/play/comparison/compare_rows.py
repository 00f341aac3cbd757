"""The rows of a comparison, read from its runs: held-out figures, costs, figures on the test set, and DPO's models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...config.dpo import OF_BEST
from ...config.loop import SelfPlayConfig
from ...counts import counted
from ...evaluation.selection import best_of
from ...evaluation.summary import ByPrompt, difference
from ...report.comparison import AGAINST, COMPUTE_SO_FAR, ArmFigures, costs_of_stage
from ...report.record import RunRecord, StageRecord, read_record, read_shown_figures, read_stage
from ...report.tables import COSTED_STEPS
from ...report.verdict import the_stage_of
from ...run.directory import RunDirectory
from ...run.journal import Entry, Journal, Step, newest
from ...run.stage import START, Stage, up_to
from ..gate import metric_of
from ..preference import origin_of_dpo
from .arms import Arm


@dataclass(frozen=True)
class PlayedArm:
    """An arm of a comparison with one seed.

    Attributes:
        arm: the arm.
        seed: the seed.
        directory: directory of the run that played it.
        play: settings of the run's loop.
    """

    arm: Arm
    seed: int
    directory: RunDirectory
    play: SelfPlayConfig

    def stage_of_dpo(self, record: RunRecord | None = None) -> Stage:
        """Return the stage that DPO trains, or has trained, for an arm that ends with it.

        Args:
            record: record of the run, if it has been read already.
        """
        if not self.arm.losses:
            return Stage.after_dpo(START)
        names = self.play.then_dpo or [OF_BEST]
        # The start comes first, for the arm without self-play.
        return Stage.after_dpo(origin_of_dpo(record or read_record(self.directory), self.play, names[-1]))

    def finalist(self) -> StageRecord | None:
        """Return the arm's best model on the held-out prompts, which is the one measured on the test set; None if there is
        none yet."""
        record = read_record(self.directory)
        if self.arm.has_dpo:
            return record.stage(self.stage_of_dpo(record))
        if self.arm.losses:
            return record.stage(origin_of_dpo(record, self.play, OF_BEST))
        stages = {stage.name: stage for stage in record.arms.get(self.arm.name, [])}
        return stages[best_of(stages, metric_of(self.play))] if stages else None


def figures_of_arm(
    directory: RunDirectory,
    stage: Stage,
    arm: str,
    iteration: int,
    seed: int,
    against: ByPrompt | None = None,
    suffix: str = AGAINST,
) -> list[ArmFigures]:
    """Return the figures of a stage, with its prompt-by-prompt differences from another one; empty if it was not measured.

    Args:
        directory: run directory.
        stage: the stage.
        arm: name of the arm.
        iteration: iteration of the row.
        seed: seed of the run.
        against: figures by prompt of the model that it is compared with, if any.
        suffix: what is appended to a figure's name for its difference.
    """
    entries = [entry for entry in Journal(directory.journal).entries() if entry["stage"] == stage]
    if not newest(entries, Step.EVALUATE):
        return []
    figures = read_shown_figures(directory, stage)
    figures |= _differences(read_stage(directory, stage).values, against or {}, suffix)
    return [ArmFigures(arm, iteration, seed, figures | costs_of_stage(_costed(entries)))]


def figures_after_dpo(played: PlayedArm, iteration: int, against: ByPrompt | None, suffix: str) -> list[ArmFigures]:
    """Return the figures of an arm that ends with DPO on top, with the compute of its whole chain.

    Args:
        played: the arm.
        iteration: iteration of the row.
        against: figures by prompt of the model that it is compared with, if any.
        suffix: what is appended to a figure's name for its difference.
    """
    stage, directory = played.stage_of_dpo(), played.directory
    found = figures_of_arm(directory, stage, played.arm.name, iteration, played.seed, against, suffix)
    entries = Journal(directory.journal).entries()
    by_stage = [[one for one in entries if one["stage"] == before] for before in up_to(stage.origin.iteration)]
    of_chain = [costs_of_stage(_costed(of_stage)) for of_stage in by_stage]
    of_chain[0].setdefault("compute", 0.0)  # a given start has cost nothing
    for row in found:
        if all("compute" in costs for costs in (*of_chain, row.figures)):
            total = sum(costs["compute"] for costs in (*of_chain, row.figures))
            return [ArmFigures(row.arm, row.iteration, row.seed, {**row.figures, COMPUTE_SO_FAR: total})]
    return found


def figures_on_test(
    arm: str, stage: StageRecord | None, seed: int, others: Mapping[str, StageRecord | None]
) -> list[ArmFigures]:
    """Return the figures of a model on the test set, with its differences from others there; empty if it was not measured.

    Args:
        arm: name of the arm.
        stage: the model.
        seed: seed of its run.
        others: models that it is compared with, by the suffix of the differences.
    """
    if stage is None or not stage.test.figures:
        return []
    figures = dict(stage.test.figures)
    for suffix, other in others.items():
        figures |= _differences(stage.test.values, other.test.values if other is not None else {}, suffix)
    return [ArmFigures(arm, 0, seed, figures)]


def dpo_arms_in_words(
    played: Sequence[PlayedArm], first: str, *, has_supervised: bool
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Return the models that DPO trained, by the arm that ends with it, and remarks on what these arms have in common.

    Args:
        played: these arms, with every seed.
        first: name of the first self-play arm.
        has_supervised: whether there are supervised arms.

    Returns:
        For each arm, by name, one mapping per seed: `seed`, `stage`, `pairs` and `steps`; and the remarks.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    origins: dict[str, list[str]] = {}
    for one in played:
        record = read_record(one.directory)
        stage = one.stage_of_dpo(record)
        trained = newest(record.journal, Step.TRAIN, stage)
        if not trained:
            continue
        named = {"seed": one.seed, "stage": str(stage), "pairs": trained["preferences"], "steps": trained["steps"]}
        found.setdefault(one.arm.name, []).append(named)
        origins.setdefault(one.arm.name, []).append(f"{the_stage_of(stage.origin)} (seed {one.seed})")
    if not found:
        return {}, []
    rows = [row for of_arm in found.values() for row in of_arm]
    pairs, steps = (sorted({int(row[name]) for row in rows}) for name in ("pairs", "steps"))
    each = "each with" if len(found) > 1 else "with"
    remarks = [
        f"{', '.join(found)}: DPO on the same pairs with the same settings, {each} "
        f"{_range_in_words(pairs, 'preference pair')} and {_range_in_words(steps, 'gradient step')}."
    ]
    remarks += [f"{arm} continues training from: {', '.join(of)}." for arm, of in origins.items()]
    if has_supervised:
        remarks.append(f"Supervised arms match {first} without DPO; none of them matches an arm with DPO.")
    return found, remarks


def _range_in_words(numbers: Sequence[int], noun: str) -> str:
    return counted(numbers[0], noun) if len(numbers) == 1 else f"{numbers[0]:,} to {counted(numbers[-1], noun)}"


def _differences(values: ByPrompt, against: ByPrompt, suffix: str) -> dict[str, float]:
    found = {f"{name}{suffix}": difference(name, values, against) for name in values}
    return {
        f"{name}{end}": value
        for name, one in found.items()
        if one is not None
        for end, value in (("", one.value), ("_low", one.low), ("_high", one.high))
    }


def _costed(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries that count as costs of a stage. `spin-trl eval` also writes to the journal."""
    return [entry for entry in entries if entry["phase"] in COSTED_STEPS]
