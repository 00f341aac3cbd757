"""The plots of a run, on its page and in `plot.png`: each answers one question, and its caption says what to look for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.figures import figure_of, is_figure, is_score
from ..evaluation.intervals import of_mean
from ..run.stage import SELF_PLAY, arm_in_words
from .drawing import GENERATED, INK, REAL, Chart, Point, Series, lines_chart, write_picture
from .formats import capitalised
from .record import RunRecord, StageRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_HISTOGRAMS = 8
"""Iterations whose log-ratios are drawn: of more, the newest, the first, and some between."""

_SIGN_WORDS = {
    "empty": ("Empty answers", "Share of answers that end before they begin."),
    "truncated": ("Answers that were cut", "Share of answers that reached the length limit before their end."),
    "identical": ("Answers that are the real one", "Share of answers that match the real response token by token."),
    "degeneration/repetition": (
        "Repetition",
        "Phrases that come again within an answer, less those in real responses.",
    ),
    "degeneration/distinct": (
        "Variety",
        "Distinct pairs of neighbouring tokens, relative to as much text of real responses (100 %): far below it, "
        "answers are alike.",
    ),
    "degeneration/odd_characters": (
        "Odd characters",
        "Share of characters that are far more frequent than in real ones.",
    ),
    "degeneration/copies": ("Copies", "Answers that stand in the training data, less real responses that do."),
}
"""Signs of degeneration by figure: what they are called, and what they mean."""

_GAME_WORDS = {
    "gap": (
        "Margins",
        "How many nats the log-ratio prefers a real response to the opponent's by: towards zero, there is less left to "
        "learn.",
    ),
    "win_rate": (
        "Win rate against the opponent",
        "How often the log-ratio prefers the real response: at 50 % the two can't be told apart, and the game is over.",
    ),
}

_ZEROS = {"win_rate": 50.0, "degeneration/distinct": 100.0}
"""Where a line is drawn across, if not at zero."""


@dataclass(frozen=True)
class Group:
    """Plots that belong together, under a heading."""

    heading: str
    charts: Sequence[Chart]
    note: str = ""


def all_charts(record: RunRecord) -> list[Group]:
    """Every plot that there is something to draw in, by group."""
    known = dict.fromkeys(name for stage in record.stages for name in stage.figures)
    scores = [name for name in known if (name == "nll" or is_score(name)) and is_figure(name, known)]
    further = [_of_score(record, name) for name in scores if name != record.metric]
    signs = {name: of for name, of in _SIGN_WORDS.items() if any(stage.value(name) for stage in record.stages)}
    absent = [words.lower() for name, (words, _) in _SIGN_WORDS.items() if name in known and name not in signs]
    of_game, of_answers = (
        [_by_iteration(record, name, *words, _ZEROS.get(name, 0.0)) for name, words in of.items()]
        for of in (_GAME_WORDS, signs)
    )
    note = f"Looked for and found in no model: {', '.join(absent)}." if absent else ""
    groups = [
        Group("The metric", [_of_score(record, record.metric), _lead(record), *further]),
        Group("Real and generated responses", [_real_and_generated(record), _ratios(record), *of_game]),
        Group("Log-ratios of held-out responses", _histograms(record)),
        Group("The answers", [_lengths(record), *of_answers], note),
    ]
    drawn = [replace(group, charts=[chart for chart in group.charts if chart.panels]) for group in groups]
    return [group for group in drawn if group.charts]


def plot_run(path: Path, record: RunRecord) -> None:
    """Draw what a run is about into a PNG file: its metric, log-probabilities, and how far it is ahead of baselines.

    Raises:
        OSError: the file can't be written; the one before stays.
    """
    write_picture(path, [_of_score(record, record.metric), _real_and_generated(record), _lead(record)])


def _of_score(record: RunRecord, figure: str) -> Chart:
    """A score or a likelihood by iteration; of the run's metric with the model that the run delivers."""
    known, is_metric = figure_of(figure), figure == record.metric
    greater = record.greater_is_better if is_metric else known.greater_is_better
    ring = ", the ring marks the model that the run delivers" if is_metric else ""
    caption = f"{'Higher' if greater else 'Lower'} is better; bars are 95 % intervals{ring}."
    best = record.best_stage.iteration if is_metric and record.best_stage is not None else None
    return _by_iteration(record, figure, f"{capitalised(known.words)} by iteration", caption, best=best)


def _lengths(record: RunRecord) -> Chart:
    real = next((stage.figures["length_real"] for stage in record.stages if "length_real" in stage.figures), None)
    caption = "Mean tokens of an answer; the line across is the mean of the real responses."
    return _by_iteration(record, "length_generated", "Length of answers", caption, real)


def _by_iteration(
    record: RunRecord, figure: str, heading: str, caption: str, zero: float | None = None, best: int | None = None
) -> Chart:
    """A figure by iteration, every arm a line; empty where nothing was measured."""
    percent, known = record.form(figure).percent, figure_of(figure)
    label = ", ".join(filter(None, (known.words, "%" if percent else known.unit)))
    found = series(record, figure, 100.0 if percent else 1.0)
    return lines_chart(figure, heading, caption, {label: found}, zero=zero, best=best)


def _lead(record: RunRecord) -> Chart:
    found = leads(record)
    side = "Above" if record.greater_is_better else "Below"
    unit = "points" if record.form(record.metric).percent else figure_of(record.metric).words
    difference = "difference" if len(found) > 1 else "".join(found)
    return lines_chart(
        "lead",
        "Self-play minus baselines" if len(found) > 1 else f"Self-play {difference}",
        f"{side} zero, self-play is ahead of the baseline after as many gradient steps; an interval that holds zero "
        "leaves it open.",
        # Self-play's own colour is not a baseline's.
        {f"{difference}, {unit}": {SELF_PLAY: [], **found}},
        zero=0.0,
        dashed=False,
    )


def _real_and_generated(record: RunRecord) -> Chart:
    return lines_chart(
        "logps",
        "Log-probabilities, apart",
        "Log-probability of a whole response under each model: the real ones should rise; if they fall together "
        "with the opponent's, only the gap is being learned. A baseline has no opponent.",
        {f"{kind}, nats": series(record, f"logps/{kind}") for kind in ("real", "generated")},
    )


def _ratios(record: RunRecord) -> Chart:
    found = {kind: series(record, f"logratio/{kind}").get(SELF_PLAY, []) for kind in ("real", "generated")}
    return lines_chart(
        "log-ratios",
        "Log-ratios to the opponent",
        "By how many nats an iteration made real responses likelier than its opponent did, and the opponent's own less "
        "likely.",
        {"log-ratio, nats": found},
        colours=(REAL, GENERATED),
        zero=0.0,
    )


def _histograms(record: RunRecord) -> list[Chart]:
    stages = [stage for stage in record.stages if stage.histogram.get("edges")]
    if len(stages) > MOST_HISTOGRAMS:
        last = len(stages) - 1
        stages = [stages[number * last // (MOST_HISTOGRAMS - 1)] for number in range(MOST_HISTOGRAMS)]
    caption = "The further real lies to the right of generated, the more was learned."
    return [
        Chart(
            f"histogram-{one.name}", capitalised(one.label), caption, {"prompts": partial(_draw_histogram, one)}, 2.5
        )
        for one in stages
    ]


def _draw_histogram(stage: StageRecord, axes: Axes) -> None:
    edges = stage.histogram["edges"]
    for name, colour, style in (("real", REAL, "-"), ("generated", GENERATED, "--")):
        axes.stairs(stage.histogram[name], edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(stage.histogram[name], edges, color=colour, linewidth=1.4, label=name, linestyle=style)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("log-ratio to the opponent, nats")


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
