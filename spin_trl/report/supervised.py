"""Remarks on a run's supervised training: its best point, and the length and the learning rates of the baselines."""

from __future__ import annotations

from collections.abc import Mapping

from ..config.traits import EQUAL_COMPUTE
from ..counts import counted
from ..run.journal import Entry, Step, newest
from ..run.stage import BEST_SFT, START, arm_in_words
from .formats import capitalised
from .record import RunRecord


def sft_in_words(record: RunRecord) -> list[str]:
    """Return a sentence on SFT first: how long it trained, and which point became the start; empty without it."""
    trained = newest(record.journal, Step.TRAIN, START)
    if "steps" not in trained:
        return []
    return [f"The start is the base after SFT on {_course(trained)}"]


def best_sft_in_words(record: RunRecord) -> str | None:
    """Return a sentence on the best and the last point of the arm from the base; None if it was not trained."""
    stages = record.arms.get(BEST_SFT, [])
    trained = newest(record.journal, Step.TRAIN, stages[-1].name) if stages else {}
    if not trained:
        return None
    return f"{capitalised(arm_in_words(BEST_SFT))}, on {_course(trained)}"


def _course(trained: Entry) -> str:
    """Describe the course of SFT from the base: its rows, its steps, and its best point."""
    points, best = trained.get("points"), trained.get("best_step")
    said = counted(trained.get("rows", 0), "row")
    if not points or not any(step == best for step, *_ in points):
        return f"{said}, {counted(trained['steps'], 'step')}."
    (found,) = (nll for step, _, nll in points if step == best)
    text = (
        f"{said}: step {best:,} of {trained['steps']:,} has the lowest NLL on held-out prompts, {found:.4f} per token"
    )
    return f"{text} (at the last one, {points[-1][2]:.4f})." if points[-1][0] != best else f"{text}."


def learning_rates(record: RunRecord) -> dict[str, float]:
    """Return the learning rates of the baseline arms, by arm; without those of arms that an earlier version has trained."""
    newest_of_arms = {
        arm: newest(record.journal, Step.TRAIN, stages[-1].name).get("learning_rate")
        for arm, stages in record.arms.items()
    }
    return {arm: float(rate) for arm, rate in newest_of_arms.items() if rate is not None}


def length_in_words(settings: Mapping[str, object], of: str) -> str:
    """Return the length of baselines in words: as many gradient steps as `of`, or as much compute.

    Args:
        settings: settings of the run.
        of: whose steps or compute they are compared with.
    """
    by_compute = has_equal_compute(settings)
    return f"as much compute as {of}, to the nearest step" if by_compute else f"as many gradient steps as {of}"


def has_equal_compute(settings: Mapping[str, object]) -> bool:
    """Return whether a run's baselines have as much compute as self-play, rather than as many gradient steps."""
    return settings.get("baseline_equal") == EQUAL_COMPUTE


def untuned_in_words(rates: Mapping[str, float]) -> str:
    """Say that each baseline arm had one learning rate only.

    Args:
        rates: learning rates by arm.
    """
    listed = ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items())
    if len(rates) == 1:
        return f"The learning rate of the baseline ({listed}) was not tuned: it had only this one."
    return f"The learning rates of the baselines ({listed}) were not tuned: each had only one."


def ends_in_words(record: RunRecord) -> list[str]:
    """Return a sentence on each baseline arm that ended because its training diverged."""
    return [
        f"{capitalised(stage.label)}: {entry.get('reason', 'training has diverged.')} The run continued without it."
        for stage, entry in record.ended_arms.items()
    ]


def on_baselines(record: RunRecord) -> list[str]:
    """Return remarks on the baseline arms: their length, learning rates, and the best point of the one from the base."""
    rates = learning_rates(record)
    if not rates:
        return []
    total = "" if BEST_SFT not in rates else f"; {BEST_SFT}, as SFT first and all iterations together"
    found = [f"Baselines have {length_in_words(record.settings, 'self-play')}{total}. {untuned_in_words(rates)}"]
    return found + ([said] if (said := best_sft_in_words(record)) is not None else [])
