"""The points that plots by iteration are drawn from: of self-play, and of every baseline arm."""

from __future__ import annotations

from ..evaluation.intervals import of_mean
from ..run.stage import SELF_PLAY, arm_in_words
from .drawing import Point, Series
from .record import RunRecord, StageRecord


def series(record: RunRecord, figure: str, scale: float = 1.0) -> Series:
    """A figure by iteration: self-play, then every baseline arm, which begins at the start, too."""
    start = [] if record.start is None else [record.start]
    arms = {SELF_PLAY: record.self_play, **{arm: start + stages for arm, stages in record.arms.items()}}
    found = {arm: [stage for stage in stages if stage.value(figure) is not None] for arm, stages in arms.items()}
    return {
        arm_in_words(arm): [_point(record, stage, figure, scale) for stage in stages]
        for arm, stages in found.items()
        if any(stage.arm == arm for stage in stages)
    }


def leads(record: RunRecord) -> Series:
    """By how much self-play is above every baseline arm after as many gradient steps, on the same prompts."""
    scale = 100.0 if record.form(record.metric).percent else 1.0
    found = {
        f"minus {arm_in_words(arm)}": [
            Point(stage.iteration, scale * of.value, scale * of.low, scale * of.high, came_from=stage.iteration - 1)
            for stage in stages
            if (ours := record.at(stage.iteration)) and (of := record.difference(ours, stage, record.metric))
        ]
        for arm, stages in record.arms.items()
    }
    return {name: points for name, points in found.items() if points}


def _point(record: RunRecord, stage: StageRecord, figure: str, scale: float) -> Point:
    interval = stage.interval(figure)
    if interval is None and figure == "logps/real" and stage.values.get("nll"):
        # The log-probability of a real response, prompt by prompt, is known as its negative.
        interval = of_mean([-value for value in stage.values["nll"].values()])
    low, high = (None, None) if interval is None else (scale * end for end in interval)
    opponent = record.opponent(stage)
    came_from = stage.iteration - 1 if opponent is None else opponent.iteration
    return Point(stage.iteration, scale * stage.figures[figure], low, high, None if stage.name.is_start else came_from)
