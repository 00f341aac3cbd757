"""The plots on a run's report page and in `plot.png`. Each answers one question, and its caption says what to look for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.figures import figure_of, is_figure, is_score
from ..evaluation.intervals import of_mean
from ..run.stage import BASE, BEST_SFT, DPO, SELF_PLAY, START, arm_in_words
from .drawing import GENERATED, INK, REAL, Chart, Point, Series, lines_chart, write_picture
from .formats import capitalised
from .record import RunRecord, StageRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_HISTOGRAMS = 8
"""Maximum number of log-ratio histograms; of more iterations, the first, the newest and evenly spaced others are drawn."""

_SIGN_WORDS = {
    "empty": ("Empty answers", "Share of answers that end immediately, without a single token."),
    "truncated": ("Truncated answers", "Share of answers that hit the length limit before they ended."),
    "identical": (
        "Answers identical to the real response",
        "Share of answers that match the real response token by token.",
    ),
    "degeneration/repetition": (
        "Repetition",
        "Share of phrases that repeat within an answer, minus the same share in real responses.",
    ),
    "degeneration/distinct": (
        "Variety",
        "Number of distinct token bigrams, relative to the same amount of text from real responses (100 %). Far below "
        "100 %, the answers are too similar to one another.",
    ),
    "degeneration/odd_characters": (
        "Odd characters",
        "Share of characters that occur far more often than in real responses.",
    ),
    "degeneration/copies": (
        "Copies",
        "Share of answers found word for word in the training data, minus the same share of real responses.",
    ),
}
"""Heading and caption for each sign of degeneration, by figure."""

_GAME_WORDS = {
    "gap": (
        "Margins",
        "By how many nats the log-ratio of the real response exceeds that of the opponent's: the closer to zero, the less "
        "is left to learn.",
    ),
    "win_rate": (
        "Win rate against the opponent",
        "How often the log-ratio prefers the real response: at 50 % the policy can't tell the two apart, and the game is "
        "over.",
    ),
}

_ZEROS = {"win_rate": 50.0, "degeneration/distinct": 100.0}
"""Positions of the horizontal reference lines that are not at zero, by figure."""


@dataclass(frozen=True)
class Group:
    """A group of related plots under one heading."""

    heading: str
    charts: Sequence[Chart]
    note: str = ""


def all_charts(record: RunRecord) -> list[Group]:
    """Return all plots that have data, by group."""
    known = dict.fromkeys(name for stage in record.stages for name in stage.figures)
    scores = [name for name in known if (name == "nll" or is_score(name)) and is_figure(name, known)]
    further = [_of_score(record, name) for name in scores if name != record.metric]
    signs = {name: of for name, of in _SIGN_WORDS.items() if any(stage.value(name) for stage in record.stages)}
    absent = [words.lower() for name, (words, _) in _SIGN_WORDS.items() if name in known and name not in signs]
    of_game, of_answers = (
        [_by_iteration(record, name, *words, _ZEROS.get(name, 0.0)) for name, words in of.items()]
        for of in (_GAME_WORDS, signs)
    )
    note = f"Checked for and not found in any model: {', '.join(absent)}." if absent else ""
    groups = [
        Group("The metric", [_of_score(record, record.metric), _lead(record), *further]),
        Group("Real and generated responses", [_real_and_generated(record), _ratios(record), *of_game]),
        Group("Log-ratios of held-out responses", _histograms(record)),
        Group("The answers", [_lengths(record), *of_answers], note),
    ]
    drawn = [replace(group, charts=[chart for chart in group.charts if chart.panels]) for group in groups]
    return [group for group in drawn if group.charts]


def plot_run(path: Path, record: RunRecord) -> None:
    """Draw the main plots of a run into a PNG file: its metric, the log-probabilities, and its lead over the baselines.

    Raises:
        OSError: if the file can't be written; the previous file is left in place.
    """
    write_picture(path, [_of_score(record, record.metric), _real_and_generated(record), _lead(record)])


def _of_score(record: RunRecord, figure: str) -> Chart:
    """Plot a score or a likelihood by iteration; for the run's metric, mark the model that the run delivers."""
    known, is_metric = figure_of(figure), figure == record.metric
    greater = record.greater_is_better if is_metric else known.greater_is_better
    ring = "; the ring marks the model that the run delivers" if is_metric else ""
    if is_metric and record.best_stage is not None and record.best_stage.arm == DPO:
        ring = f"; the run delivers {record.best_stage.label}"
    caption = f"{'Higher' if greater else 'Lower'} is better; bars are 95 % intervals{ring}."
    # The ring is on self-play's line.
    has_ring = is_metric and record.best_stage is not None and record.best_stage.arm == SELF_PLAY
    best = record.best_stage.iteration if has_ring and record.best_stage is not None else None
    return _by_iteration(record, figure, f"{capitalised(known.words)} by iteration", caption, best=best)


def _lengths(record: RunRecord) -> Chart:
    real = next((stage.figures["length_real"] for stage in record.stages if "length_real" in stage.figures), None)
    caption = "Mean number of tokens per answer; the horizontal line is the mean of the real responses."
    return _by_iteration(record, "length_generated", "Length of answers", caption, real)


def _by_iteration(
    record: RunRecord, figure: str, heading: str, caption: str, zero: float | None = None, best: int | None = None
) -> Chart:
    """Plot a figure by iteration, with one line per arm; the chart is empty if nothing was measured."""
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
        f"{side} zero, self-play is ahead of the baseline at the same iteration; an interval that includes zero is "
        "inconclusive.",
        # The empty series reserves self-play's colour, so no baseline is drawn in it.
        {f"{difference}, {unit}": {SELF_PLAY: [], **found}},
        zero=0.0,
        dashed=False,
    )


def _real_and_generated(record: RunRecord) -> Chart:
    return lines_chart(
        "logps",
        "Log-probabilities of real and generated responses",
        "Log-probability of a whole response under each model. It should rise for real responses; if it falls for them as "
        "well as for the opponent's, only the gap is being learned. A baseline has no opponent.",
        {f"{kind}, nats": series(record, f"logps/{kind}") for kind in ("real", "generated")},
    )


def _ratios(record: RunRecord) -> Chart:
    found = {kind: series(record, f"logratio/{kind}").get(SELF_PLAY, []) for kind in ("real", "generated")}
    return lines_chart(
        "log-ratios",
        "Log-ratios to the opponent",
        "By how many nats real responses became more likely than under the opponent, and the opponent's own responses "
        "less likely.",
        {"log-ratio, nats": found},
        colours=(REAL, GENERATED),
        zero=0.0,
    )


def _histograms(record: RunRecord) -> list[Chart]:
    stages = [stage for stage in record.stages if stage.histogram.get("edges")]
    if len(stages) > MOST_HISTOGRAMS:
        last = len(stages) - 1
        stages = [stages[number * last // (MOST_HISTOGRAMS - 1)] for number in range(MOST_HISTOGRAMS)]
    caption = "The further the real responses lie to the right of the generated ones, the more was learned."
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
    """Return a figure by iteration for self-play, after the base if there is one, and then for every baseline arm. Arms
    begin at the start, or at the base if they are trained from it. Each result of DPO has a line from the model that it
    started from, as long as one iteration."""
    base, start = ([] if one is None else [one] for one in (record.base, record.start))
    first = {arm: base if arm == BEST_SFT else start for arm in record.arms}
    arms = {SELF_PLAY: base + record.self_play, **{arm: first[arm] + stages for arm, stages in record.arms.items()}}
    found = {arm: [stage for stage in stages if stage.value(figure) is not None] for arm, stages in arms.items()}
    lines = {
        arm_in_words(arm): [_point(record, stage, figure, scale) for stage in stages]
        for arm, stages in found.items()
        if any(stage.arm == arm for stage in stages)
    }
    for stage in record.after_dpo:  # a line from the model that DPO started from
        if stage.value(figure) is not None:
            ends = [
                one for one in (record.opponent(stage), stage) if one is not None and one.value(figure) is not None
            ]
            lines[stage.label] = [_point(record, one, figure, scale) for one in ends]
    return lines


def leads(record: RunRecord) -> Series:
    """Return how far self-play is above each baseline arm at the same iteration, on the same prompts."""
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
        # Per prompt, `nll` is the negative log-probability of the real response.
        interval = of_mean([-value for value in stage.values["nll"].values()])
    low, high = (None, None) if interval is None else (scale * end for end in interval)
    opponent = record.opponent(stage)
    came_from = (stage.name.before if opponent is None else opponent).iteration
    is_first = stage.name == (START if record.base is None else BASE)
    return Point(stage.iteration, scale * stage.figures[figure], low, high, None if is_first else came_from)
