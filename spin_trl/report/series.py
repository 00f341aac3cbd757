"""The points that plots by iteration are drawn from: of self-play, and of every baseline arm."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.intervals import of_mean
from ..run.stage import SELF_PLAY, arm_in_words
from .drawing import Point, Series
from .record import RunRecord, StageRecord


def series(record: RunRecord, figure: str, scale: float = 1.0) -> Series:
    """A figure by iteration: self-play, then every baseline arm, which begins at the start, too."""
    found: Series = {SELF_PLAY: [_point(record, stage, figure, scale) for stage in _with(record.self_play, figure)]}
    for arm, stages in record.arms.items():
        start = [record.start] if record.start is not None else []
        with_figure = _with(stages, figure)
        if with_figure:
            points = _with(start, figure) + with_figure
            found[arm_in_words(arm)] = [_point(record, stage, figure, scale) for stage in points]
    return {name: points for name, points in found.items() if points}


def leads(record: RunRecord) -> Series:
    """By how much self-play is above every baseline arm after as many gradient steps, on the same prompts."""
    scale = 100.0 if record.form(record.metric).percent else 1.0
    found: Series = {}
    for arm, stages in record.arms.items():
        points = []
        for stage in stages:
            ours = record.at(stage.iteration)
            difference = None if ours is None else record.difference(ours, stage, record.metric)
            if difference is not None:
                value, low, high = (scale * end for end in (difference.value, difference.low, difference.high))
                points.append(Point(stage.iteration, value, low, high, came_from=stage.iteration - 1))
        if points:
            found[f"minus {arm_in_words(arm)}"] = points
    return found


def _with(stages: Sequence[StageRecord], figure: str) -> list[StageRecord]:
    return [stage for stage in stages if stage.value(figure) is not None]


def _point(record: RunRecord, stage: StageRecord, figure: str, scale: float) -> Point:
    interval = stage.interval(figure)
    if interval is None and figure == "logps/real" and stage.values.get("nll"):
        # The log-probability of a real response, prompt by prompt, is known as its negative.
        of_real = of_mean([-value for value in stage.values["nll"].values()])
        interval = of_real.low, of_real.high
    low, high = (None, None) if interval is None else (scale * end for end in interval)
    opponent = record.opponent(stage)
    came_from = stage.iteration - 1 if opponent is None else opponent.iteration
    return Point(
        stage.iteration,
        scale * stage.figures[figure],
        low,
        high,
        None if stage.name.is_start else came_from,
    )
