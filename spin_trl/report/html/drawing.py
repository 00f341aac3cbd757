"""Draws with matplotlib what a page can take in: SVG whose text is text and whose colours are the page's own.

A plot is drawn in colours that stand for the page's (`SERIES`, `INK`, ...), which are put in their place afterwards,
so the same
plot reads on a light ground, on a dark one, and in print.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from ..text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, RULE, REAL, GENERATED = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010201", "#010202", "#010203", "#010204", "#010205")
"""Colours of lines, self-play's first. Beyond the last they begin again: markers tell them apart."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_PAGE_COLOURS = {
    INK: "currentColor",
    RULE: "var(--rule)",
    REAL: "var(--real)",
    GENERATED: "var(--generated)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}

_LEGEND_WIDTH = 72
"""Characters of a legend in a plot of usual width."""

WIDTH, HEIGHT = 4.4, 2.9
"""Inches of a plot: on a phone it is shown in about its own size."""

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}

_STYLE = re.compile(r'style="([^"]*)"')
_ID = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^")]*)')


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Settings of matplotlib for one plot. Its name is unique on the page, and so are the ids that it gets from it."""
    from matplotlib import rc_context

    with rc_context({**_SETTINGS, "svg.hashsalt": name}):
        yield


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> Figure:
    """An empty plot, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def label_of(text: str) -> str:
    """A text that a user may have chosen, as it can stand in a plot."""
    return visible(text)


def legend(figure: Figure, axes: Axes) -> None:
    """A legend above a plot, where it hides nothing, if there is more than one thing to tell apart."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        # As many beside each other as fit; about six characters are the line's sample and the space around it.
        columns = max(1, min(len(labels), _LEGEND_WIDTH // (max(map(len, labels)) + 6)))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderpad=0, columnspacing=1.2)


def to_svg(figure: Figure, title: str) -> str:
    """A plot as an `svg` element for a page.

    Args:
        figure: drawn within [`drawing`].
        title: for whoever can't see it.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        # The page's fonts may have what matplotlib's own, which only measures here, has not.
        warnings.filterwarnings("ignore", message="Glyph")
        # What `savefig` does without drawing everything a second time, for formats that need it.
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = _STYLE.sub(lambda found: f'style="{_without_font(found[1])}"', text)
    for colour, of_page in _PAGE_COLOURS.items():
        text = text.replace(colour, of_page)
    used = set(_REFERENCE.findall(text))
    text = _ID.sub(lambda found: found[0] if found[1] in used else "", text)
    label = escape(visible(title), quote=True)
    return re.sub(
        r"<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>",
        lambda found: f'<svg viewBox="{found[1]}" role="img" aria-label="{label}">',
        text,
        count=1,
    ).strip()


def _without_font(style: str) -> str:
    """A text's style with the page's font in place of matplotlib's."""
    return re.sub(r"font: ([\d.]+)px [^;]*", r"font-size: \1px", re.sub(r"font-family: [^;]*;?", "", style))
