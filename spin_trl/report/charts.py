"""The plots of a run, on its page and in `plot.png`: each answers one question, and its caption says what to look for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.degeneration import SIGNS
from ..evaluation.figures import figure_of, is_figure, is_score
from ..run.stage import SELF_PLAY
from .drawing import GENERATED, INK, REAL, Chart, draw_lines, lines_chart, write_picture
from .formats import capitalised
from .record import RunRecord, StageRecord
from .series import leads, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_HISTOGRAMS = 8
"""Iterations whose log-ratios are drawn: of more, the newest, the first, and some between."""

_SIGN_WORDS = {
    "empty": ("Empty answers", "Share of answers that end before they begin.", 0.0),
    "truncated": ("Answers that were cut", "Share of answers that reached the length limit before their end.", 0.0),
    "identical": (
        "Answers that are the real one",
        "Share of answers that match the real response token by token.",
        0.0,
    ),
    SIGNS["repetition"].figure: (
        "Repetition",
        "Phrases that come again within an answer, less those in real responses.",
        0.0,
    ),
    SIGNS["distinct"].figure: (
        "Variety",
        "Distinct pairs of tokens, by those of as much real text: far below 100 %, answers are alike.",
        100.0,
    ),
    SIGNS["odd_characters"].figure: (
        "Odd characters",
        "Share of characters that are far more frequent than in real ones.",
        0.0,
    ),
    SIGNS["copies"].figure: ("Copies", "Answers that stand in the training data, less real responses that do.", 0.0),
}
"""Signs of degeneration by figure: what they are called, what they mean, and where a line is drawn across."""

_WORDS = {
    "gap": (
        "Margins",
        "How many nats the log-ratio prefers a real response to the opponent's by: towards zero, there is less left to "
        "learn.",
        0.0,
    ),
    "win_rate": (
        "Win rate against the opponent",
        "How often the log-ratio prefers the real response: at 50 % the two can't be told apart, and the game is over.",
        50.0,
    ),
    **_SIGN_WORDS,
}
"""The same of every figure whose plot is not of a score."""


@dataclass(frozen=True)
class Group:
    """Plots that belong together, under a heading."""

    heading: str
    charts: Sequence[Chart]
    note: str = ""


def all_charts(record: RunRecord) -> list[Group]:
    """Every plot that there is something to draw in, by group."""
    known = dict.fromkeys(name for stage in record.stages for name in stage.figures)
    further = [name for name in known if (name == "nll" or is_score(name)) and is_figure(name, known)]
    of_metric = [_of_score(record, name) for name in further if name != record.metric]
    signs = [name for name in _SIGN_WORDS if any(stage.value(name) for stage in record.stages)]
    absent = [words.lower() for name, (words, *_) in _SIGN_WORDS.items() if name in known and name not in signs]
    of_game = [_of_figure(record, name) for name in ("gap", "win_rate")]
    groups = [
        Group("The metric", _drawn(_of_score(record, record.metric), _lead(record), *of_metric)),
        Group("Real and generated responses", _drawn(_real_and_generated(record), _ratios(record), *of_game)),
        Group("Log-ratios of held-out responses", _histograms(record)),
        Group(
            "The answers",
            _drawn(_lengths(record), *(_of_figure(record, name) for name in signs)),
            f"Looked for and found in no model: {', '.join(absent)}." if absent else "",
        ),
    ]
    return [group for group in groups if group.charts]


def plot_run(path: Path, record: RunRecord) -> None:
    """Draw what a run is about into a PNG file: its metric, log-probabilities, and how far it is ahead of baselines.

    Raises:
        OSError: the file can't be written; the one before stays.
    """
    write_picture(path, _drawn(_of_score(record, record.metric), _real_and_generated(record), _lead(record)))


def _of_score(record: RunRecord, figure: str) -> Chart | None:
    """A score or a likelihood by iteration; of the run's metric with the model that it delivers."""
    is_metric = figure == record.metric
    greater = record.greater_is_better if is_metric else figure_of(figure).greater_is_better
    heading = f"{capitalised(figure_of(figure).words)} by iteration"
    caption = f"{'Higher' if greater else 'Lower'} is better; bars are 95 % intervals"
    if is_metric:
        caption += ", the ring marks the model that the run delivers"
    best = record.best_stage.iteration if is_metric and record.best_stage is not None else None
    return _by_iteration(record, figure, heading, f"{caption}.", best=best)


def _of_figure(record: RunRecord, figure: str) -> Chart | None:
    return _by_iteration(record, figure, *_WORDS[figure])


def _lengths(record: RunRecord) -> Chart | None:
    real = next((stage.figures["length_real"] for stage in record.stages if "length_real" in stage.figures), None)
    caption = "Mean tokens of an answer; the line across is the mean of the real responses."
    return _by_iteration(record, "length_generated", "Length of answers", caption, real)


def _by_iteration(
    record: RunRecord, figure: str, heading: str, caption: str, zero: float | None = None, best: int | None = None
) -> Chart | None:
    """A figure by iteration, every arm a line; None where nothing was measured."""
    percent, known = record.form(figure).percent, figure_of(figure)
    unit = "%" if percent else known.unit
    found = series(record, figure, 100.0 if percent else 1.0)
    label = f"{known.words}, {unit}" if unit else known.words
    return lines_chart(figure, heading, caption, {label: found}, partial(draw_lines, zero=zero, best=best))


def _lead(record: RunRecord) -> Chart | None:
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
        partial(draw_lines, zero=0.0, dashed=False),
    )


def _real_and_generated(record: RunRecord) -> Chart | None:
    return lines_chart(
        "logps",
        "Log-probabilities, apart",
        "Log-probability of a whole response under each model: the real ones should rise; if they fall together "
        "with the opponent's, only the gap is being learned. A baseline has no opponent.",
        {f"{kind}, nats": series(record, f"logps/{kind}") for kind in ("real", "generated")},
    )


def _ratios(record: RunRecord) -> Chart | None:
    found = {kind: series(record, f"logratio/{kind}").get(SELF_PLAY, []) for kind in ("real", "generated")}
    return lines_chart(
        "log-ratios",
        "Log-ratios to the opponent",
        "By how many nats an iteration made real responses likelier than its opponent did, and the opponent's own less "
        "likely.",
        {"log-ratio, nats": found},
        partial(draw_lines, colours=(REAL, GENERATED), zero=0.0),
    )


def _histograms(record: RunRecord) -> list[Chart]:
    stages = [stage for stage in record.stages if stage.histogram.get("edges")]
    if len(stages) > MOST_HISTOGRAMS:
        last = len(stages) - 1
        stages = [stages[number * last // (MOST_HISTOGRAMS - 1)] for number in range(MOST_HISTOGRAMS)]
    caption = "The further real lies to the right of generated, the more was learned."
    return [
        Chart(
            f"histogram-{stage.name}",
            capitalised(stage.label),
            caption,
            {"prompts": partial(_draw_histogram, stage)},
            height=2.5,
        )
        for stage in stages
    ]


def _draw_histogram(stage: StageRecord, axes: Axes) -> None:
    edges = stage.histogram["edges"]
    for name, colour, style in (("real", REAL, "-"), ("generated", GENERATED, "--")):
        axes.stairs(stage.histogram[name], edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(stage.histogram[name], edges, color=colour, linewidth=1.4, label=name, linestyle=style)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("log-ratio to the opponent, nats")


def _drawn(*charts: Chart | None) -> list[Chart]:
    """Those charts for which something was measured."""
    return [chart for chart in charts if chart is not None]
