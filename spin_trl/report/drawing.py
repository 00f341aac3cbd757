"""Draws charts with matplotlib: as SVG in the colours of the report page, and as PNG files.

The same functions draw both. They refer to colours by their positions in matplotlib's colour cycle, which holds placeholders
for the page's colours in an SVG and matplotlib's own colours in a PNG. So a plot on the page is readable on a light
background, on a dark one, and in print.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import visible
from ..files import write_atomically
from ..run.stage import Stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

WIDTH, HEIGHT = 4.4, 2.9
"""Size of a plot on the page in inches: a phone shows it at about its natural size."""

_FURTHER_PANEL = 1.2
"""Height in inches that each further panel adds to a plot."""

PICTURE_WIDTH, PICTURE_HEIGHT, PICTURE_DPI = 5, 4, 110
"""Size of a plot in a PNG file in inches, and its resolution in dots per inch."""

SERIES = ("C0", "C1", "C2", "C3", "C4")
"""Colours of lines, self-play's first. They repeat after the last; the markers then distinguish the lines."""

REAL, GENERATED, INK = "C5", "C6", "C7"

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_LEGEND_WIDTH = 72
"""Number of characters that fit in a line of the legend of a plot of normal width."""

_MARGIN = 0.4
"""Margin at either end of an axis, in iterations."""

_MOST_TICKS = 8

_DODGE = 0.012
"""Horizontal offset between lines, as a share of the axis, which keeps their intervals from overlapping."""

_WIDEST = 0.6
"""Maximum total offset of all lines, in iterations: beyond it, a point could be mistaken for the next iteration's."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}

_PAGE_COLOURS = (*(f"var(--series-{n})" for n in range(1, 6)), "var(--real)", "var(--generated)", "currentColor")
_STAND_INS = {f"#01010{number}": colour for number, colour in enumerate((*_PAGE_COLOURS, "var(--rule)"))}
"""Placeholder colours of a plot (those of the colour cycle in order, then the grid's) and their replacements on the page."""

*_CYCLE, _RULE = _STAND_INS
_INK = _CYCLE[-1]

_PAGE_STYLE: Any = {
    "svg.fonttype": "none",
    "grid.color": _RULE,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}


@dataclass(frozen=True)
class Point:
    """A value at an iteration, with its interval if it has one.

    Attributes:
        iteration: iteration, 0-based; -1 for the start, -2 for the base.
        came_from: iteration that the point is joined to by a line, or None.
    """

    iteration: int
    value: float
    low: float | None = None
    high: float | None = None
    came_from: int | None = None


Series = dict[str, list[Point]]
"""Points by the name of their line."""


@dataclass(frozen=True)
class Chart:
    """A plot with its heading and caption.

    Attributes:
        name: name, unique on a page. The ids of the plot's elements derive from it, and so are unique too.
        heading: title that says what the plot shows.
        caption: sentence that says what to look for.
        panels: functions that draw the panels, by the label of the y axis. Panels are stacked, for scales that are far
            apart. Empty if nothing was measured.
        height: height on the page in inches, with one panel.
    """

    name: str
    heading: str
    caption: str
    panels: Mapping[str, Callable[[Axes], None]]
    height: float = HEIGHT

    def draw(self, figure: FigureBase) -> Axes:
        """Draw the panels and a legend. Return the top panel."""
        every = figure.subplots(len(self.panels), sharex=True, squeeze=False)[:, 0]
        panels = list(zip(every, self.panels.items(), strict=True))
        # The top panel is drawn last, so it determines the shared x axis.
        for axes, (label, draw) in reversed(panels):
            draw(axes)
            axes.set_ylabel(visible(label))
        for axes in every[:-1]:
            axes.set_xlabel("")
        uppermost: Axes = every[0]
        _add_legend(figure, uppermost)
        return uppermost

    @cached_property
    def svg(self) -> str:
        """The plot as an `svg` element for a page, with real text and the page's own colours."""
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.rcsetup import cycler

        buffer = io.StringIO()
        cycle = {"svg.hashsalt": ascii(self.name), "axes.prop_cycle": cycler(color=_CYCLE)}
        with rc_context(_STYLE | _PAGE_STYLE | cycle), warnings.catch_warnings():
            # The page's fonts may have glyphs that matplotlib's own font, used here only for measuring, lacks.
            warnings.filterwarnings("ignore", message="Glyph")
            height = self.height + _FURTHER_PANEL * (len(self.panels) - 1)
            figure = Figure(figsize=(WIDTH, height), layout="constrained")
            self.draw(figure)
            # Same as `savefig`, without the second drawing pass that only some formats need.
            metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
        return _for_page(buffer.getvalue(), f"{self.heading}. {self.caption}")


def write_picture(path: Path, charts: Sequence[Chart]) -> None:
    """Draw charts side by side into a PNG file, which is blank if nothing was measured.

    Raises:
        OSError: if the file can't be written; the previous file is left in place.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        measured = [chart for chart in charts if chart.panels]
        columns = max(len(measured), 1)
        figure = Figure(figsize=(PICTURE_WIDTH * columns, PICTURE_HEIGHT), layout="constrained")
        FigureCanvasAgg(figure)
        for part, chart in zip(figure.subfigures(1, columns, squeeze=False)[0], measured, strict=False):
            chart.draw(part).set_title(visible(chart.heading))
        write_atomically(path, lambda file: figure.savefig(file, dpi=PICTURE_DPI, format="png"))


def lines_chart(name: str, heading: str, caption: str, panels: Mapping[str, Series], **options: Any) -> Chart:
    """Return a chart of lines by iteration; it has no panels if there are no points.

    Args:
        name, heading, caption: as in [`Chart`].
        panels: points by the label of the y axis. Panels without points are left out.
        options: options of [`draw_lines`].
    """
    drawn = {label: partial(draw_lines, found, **options) for label, found in panels.items() if any(found.values())}
    return Chart(name, heading, caption, drawn)


def draw_lines(
    found: Series,
    axes: Axes,
    *,
    colours: Sequence[str] = SERIES,
    zero: float | None = None,
    best: int | None = None,
    dashed: bool = True,
) -> None:
    """Draw lines by iteration, with intervals. Each point is joined to the one that it came from.

    Args:
        found: points by line; at least one line must have some. A line without points still uses up its colour.
        axes: axes to draw on.
        colours: colours of the lines, in order.
        zero: value at which to draw a horizontal reference line, or None.
        best: iteration to mark on the first line, or None.
        dashed: whether all lines except the first are dashed.
    """
    from matplotlib.collections import LineCollection

    if zero is not None:
        axes.axhline(zero, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    iterations = [point.iteration for points in found.values() for point in points]
    dodge = min(_DODGE * max(max(iterations) - min(iterations), 4), _WIDEST / len(found))
    for number, (name, points) in enumerate(found.items()):
        colour, marker = colours[number % len(colours)], _MARKERS[number % len(_MARKERS)]
        shift = (number - (len(found) - 1) / 2) * dodge
        ends = {point.iteration: (point.iteration + shift, point.value) for point in points}
        joined = [(ends[point.came_from], ends[point.iteration]) for point in points if point.came_from in ends]
        style = "--" if dashed and number else "-"
        axes.add_collection(LineCollection(joined, colors=colour, linestyles=style))
        sure = [
            ((point.iteration + shift, point.low), (point.iteration + shift, point.high))
            for point in points
            if point.low is not None and point.high is not None
        ]
        axes.add_collection(LineCollection(sure, colors=colour, linewidths=1.4))
        if points:
            places, values = zip(*ends.values(), strict=True)
            axes.plot(places, values, color=colour, marker=marker, linestyle="none", label=visible(name))
        if number == 0 and best in ends:
            axes.plot(*ends[best], "o", markersize=11, fillstyle="none", color=colour)
    _name_iterations(axes, min(iterations), max(iterations))


def _name_iterations(axes: Axes, first: int, last: int) -> None:
    """Label the x axis with iterations; the start comes before the first."""
    axes.set_xlim(first - _MARGIN, last + _MARGIN)
    shown = range(first, last + 1, max(1, math.ceil((last - first) / _MOST_TICKS)))
    axes.set_xticks(shown, [Stage.of(iteration).label if iteration < 0 else str(iteration) for iteration in shown])
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("iteration")


def _add_legend(figure: FigureBase, axes: Axes) -> None:
    """Add a legend above a plot, where it hides nothing, if there are several lines to distinguish."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        # As many columns as fit; a line's sample and the space around it take about six characters.
        columns = max(1, min(len(labels), _LEGEND_WIDTH // (max(map(len, labels)) + 6)))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderpad=0, columnspacing=1.2)


def _for_page(text: str, title: str) -> str:
    """Turn matplotlib's SVG file into an element of the page, with a label for screen readers."""
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'style="([^"]*)"', lambda found: f'style="{_without_font(found[1])}"', text)
    for stand_in, of_page in _STAND_INS.items():
        text = text.replace(stand_in, of_page)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]*)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    label = escape(visible(title), quote=True)
    opening = re.compile(r"<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>")
    return opening.sub(
        lambda found: f'<svg viewBox="{found[1]}" role="img" aria-label="{label}">', text, count=1
    ).strip()


def _without_font(style: str) -> str:
    """Remove matplotlib's font from a text's style, so that the page's font applies."""
    return re.sub(r"font: ([\d.]+)px [^;]*", r"font-size: \1px", re.sub(r"font-family: [^;]*;?", "", style))
