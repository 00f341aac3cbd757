"""The plots of the report: each answers one question, and its caption says what to look for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...evaluation.degeneration import SIGNS
from ...evaluation.figures import figure_of, is_figure, is_score
from ...run.stage import SELF_PLAY
from ..formats import capitalised
from ..record import RunRecord, StageRecord
from .drawing import (
    GENERATED,
    HEIGHT,
    INK,
    MARKERS,
    REAL,
    SERIES,
    WIDTH,
    drawing,
    label_of,
    legend,
    new_figure,
    to_svg,
)
from .lines import draw_lines, iteration_axis
from .series import Series, leads, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_HISTOGRAMS = 8
"""Iterations whose log-ratios are drawn: of more, the newest, the first, and some between."""


@dataclass(frozen=True)
class Chart:
    """A plot with its words.

    Attributes:
        heading: what it shows.
        caption: what to look for, in a sentence.
        svg: the plot.
    """

    heading: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Group:
    """Plots that belong together, under a heading."""

    heading: str
    charts: Sequence[Chart]
    note: str = ""


def all_charts(record: RunRecord) -> list[Group]:
    """Every plot that there is something to draw in, by group."""
    groups = [
        Group("The metric", _of_metric(record)),
        Group("Real and generated responses", _of_the_game(record)),
        Group("Log-ratios of held-out responses", _of_log_ratios(record)),
        Group("The answers", _of_answers(record), _without_signs(record)),
    ]
    return [group for group in groups if group.charts]


def _of_metric(record: RunRecord) -> list[Chart]:
    metric, name = record.metric, figure_of(record.metric).words
    direction = "Higher is better" if record.greater_is_better else "Lower is better"
    charts = [
        _lines(
            record,
            "metric",
            f"{capitalised(name)} by iteration",
            f"{direction}; bars are 95 % intervals, the ring marks the model that the run delivers.",
            metric,
            marks_best=True,
        ),
        _lead_chart(record),
    ]
    known = dict.fromkeys(name for stage in record.stages for name in stage.figures)
    for other in known:
        if other != metric and (other == "nll" or is_score(other)) and is_figure(other, known):
            better = "Higher is better" if figure_of(other).greater_is_better else "Lower is better"
            heading = f"{capitalised(figure_of(other).words)} by iteration"
            charts.append(
                _lines(record, f"metric-{len(charts)}", heading, f"{better}; bars are 95 % intervals.", other)
            )
    return [chart for chart in charts if chart is not None]


def _lead_chart(record: RunRecord) -> Chart | None:
    found = leads(record)
    if not found:
        return None
    side = "Above" if record.greater_is_better else "Below"
    unit = "points" if record.form(record.metric).percent else figure_of(record.metric).words
    (first, *others) = found
    return _plot(
        "lead",
        "Self-play minus baselines" if others else f"Self-play {first}",
        f"{side} zero, self-play is ahead of the baseline after as many gradient steps; an interval that holds zero "
        "leaves it open.",
        lambda axes: draw_lines(axes, found, colours=SERIES[1:], markers=MARKERS[1:], zero=0.0, dashed=False),
        f"{'difference' if others else first}, {unit}",
    )


def _of_the_game(record: RunRecord) -> list[Chart]:
    charts = [
        _real_and_generated(record),
        _ratios(record),
        _lines(
            record,
            "margins",
            "Margins",
            "How many nats the log-ratio prefers a real response to the opponent's by: towards zero, there is less "
            "left to learn.",
            "gap",
            zero=0.0,
        ),
        _lines(
            record,
            "win-rate",
            "Win rate against the opponent",
            "How often the log-ratio prefers the real response: at 50 % the two can't be told apart, and the game is over.",
            "win_rate",
            zero=50.0,
        ),
    ]
    return [chart for chart in charts if chart is not None]


def _real_and_generated(record: RunRecord) -> Chart | None:
    """Log-probabilities of real and generated responses, above each other: their scales are often far apart."""
    real, generated = series(record, "logps/real"), series(record, "logps/generated")
    if not real:
        return None
    with drawing("logps"):
        figure = new_figure(WIDTH, HEIGHT + (1.2 if generated else 0))
        panels = figure.subplots(2 if generated else 1, 1, sharex=True, squeeze=False)[:, 0]
        for axes, found, name in zip(panels, (real, generated), ("real", "generated"), strict=False):
            draw_lines(axes, found)
            axes.set_ylabel(f"{name}, nats")
        panels[0].set_xlabel("iteration" if len(panels) == 1 else "")
        # The panels share their axis, which begins with the start, though only real responses have a value there.
        iteration_axis(panels[-1], [point.iteration for points in real.values() for point in points])
        legend(figure, panels[0])
        caption = (
            "Log-probability of a whole response under each model: the real ones should rise; if they fall together "
            "with the opponent's, only the gap is being learned. A baseline has no opponent."
        )
        heading = "Log-probabilities, apart"
        return Chart(heading, caption, to_svg(figure, f"{heading}. {caption}"))


def _ratios(record: RunRecord) -> Chart | None:
    found: Series = {}
    for kind in ("real", "generated"):
        points = series(record, f"logratio/{kind}").get(SELF_PLAY)
        if points:
            found[kind] = points
    if not found:
        return None
    return _plot(
        "log-ratios",
        "Log-ratios to the opponent",
        "By how many nats an iteration made real responses likelier than its opponent did, and the opponent's own less "
        "likely.",
        lambda axes: draw_lines(axes, found, colours=(REAL, GENERATED), zero=0.0),
        "log-ratio, nats",
    )


def _of_log_ratios(record: RunRecord) -> list[Chart]:
    stages = [stage for stage in record.stages if stage.histogram.get("edges")]
    if len(stages) > MOST_HISTOGRAMS:
        last = len(stages) - 1
        stages = [stages[number * last // (MOST_HISTOGRAMS - 1)] for number in range(MOST_HISTOGRAMS)]
    return [_histogram(stage) for stage in stages]


def _histogram(stage: StageRecord) -> Chart:
    def draw(axes: Axes) -> None:
        edges = stage.histogram["edges"]
        for name, colour, style in (("real", REAL, "-"), ("generated", GENERATED, "--")):
            counts = stage.histogram[name]
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.3)
            axes.stairs(counts, edges, color=colour, linewidth=1.4, label=name, linestyle=style)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_xlabel("log-ratio to the opponent, nats")

    return _plot(
        f"histogram-{stage.name}",
        capitalised(stage.label),
        "The further real lies to the right of generated, the more was learned.",
        draw,
        "prompts",
        height=2.5,
    )


def _of_answers(record: RunRecord) -> list[Chart]:
    real = [stage.figures["length_real"] for stage in record.stages if "length_real" in stage.figures]
    charts = [
        _lines(
            record,
            "lengths",
            "Length of answers",
            "Mean tokens of an answer; the line across is the mean of the real responses.",
            "length_generated",
            zero=real[0] if real else None,
        )
    ]
    for figure, (name, means) in _SIGN_WORDS.items():
        if _occurs(record, figure):
            charts.append(
                _lines(record, f"sign-{len(charts)}", name, means, figure, zero=0.0 if figure != _DISTINCT else 100.0)
            )
    return [chart for chart in charts if chart is not None]


_DISTINCT = SIGNS["distinct"].figure

_SIGN_WORDS = {
    "empty": ("Empty answers", "Share of answers that end before they begin."),
    "truncated": ("Answers that were cut", "Share of answers that reached the length limit before their end."),
    "identical": ("Answers that are the real one", "Share of answers that match the real response token by token."),
    SIGNS["repetition"].figure: (
        "Repetition",
        "Phrases that come again within an answer, less those in real responses.",
    ),
    _DISTINCT: (
        "Variety",
        "Distinct pairs of tokens, by those of as much real text: far below 100 %, answers are alike.",
    ),
    SIGNS["odd_characters"].figure: (
        "Odd characters",
        "Share of characters that are far more frequent than in real ones.",
    ),
    SIGNS["copies"].figure: ("Copies", "Answers that stand in the training data, less real responses that do."),
}
"""Signs of degeneration by figure: what they are called, and what they mean."""


def _without_signs(record: RunRecord) -> str:
    """Names the signs that were looked for and never found, which get no plot."""
    known = {name for stage in record.stages for name in stage.figures}
    absent = [
        words.lower() for figure, (words, _) in _SIGN_WORDS.items() if figure in known and not _occurs(record, figure)
    ]
    return f"Looked for and found in no model: {', '.join(absent)}." if absent else ""


def _occurs(record: RunRecord, figure: str) -> bool:
    return any(stage.value(figure) for stage in record.stages)


def _lines(
    record: RunRecord,
    name: str,
    heading: str,
    caption: str,
    figure: str,
    *,
    zero: float | None = None,
    marks_best: bool = False,
) -> Chart | None:
    """A figure by iteration, every arm a line; None where nothing was measured."""
    percent = record.form(figure).percent
    found = series(record, figure, 100.0 if percent else 1.0)
    if not found:
        return None
    best = record.best_stage.iteration if marks_best and record.best_stage is not None else None
    known = figure_of(figure)
    unit = "%" if percent else known.unit
    return _plot(
        name,
        heading,
        caption,
        lambda axes: draw_lines(axes, found, zero=zero, best=best),
        f"{known.words}, {unit}" if unit else known.words,
    )


def _plot(
    name: str,
    heading: str,
    caption: str,
    draw: Callable[[Axes], None],
    y_label: str,
    height: float = HEIGHT,
) -> Chart:
    with drawing(name):
        figure = new_figure(WIDTH, height)
        axes = figure.subplots()
        draw(axes)
        axes.set_ylabel(label_of(y_label))
        legend(figure, axes)
        return Chart(heading, caption, to_svg(figure, f"{heading}. {caption}"))
