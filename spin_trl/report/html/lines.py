"""Draws lines by iteration: a point with its interval for every model, joined to the model that it came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .drawing import INK, MARKERS, SERIES, label_of
from .series import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARGIN = 0.4
"""Iterations left free at either end of an axis."""

_MOST_TICKS = 8

_DODGE = 0.012
"""Share of an axis by which lines stand beside each other, so that their intervals can be told apart."""

_WIDEST = 0.6
"""Of all lines together, in iterations: more, and a point could be taken for the next iteration's."""


def draw_lines(
    axes: Axes,
    found: Series,
    *,
    colours: Sequence[str] = SERIES,
    markers: Sequence[str] = MARKERS,
    zero: float | None = None,
    best: int | None = None,
    dashed: bool = True,
) -> None:
    """Lines with intervals, a little beside each other; each point is joined to the one that it came from."""
    if zero is not None:
        axes.axhline(zero, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    iterations = [point.iteration for points in found.values() for point in points]
    dodge = min(_DODGE * max(max(iterations) - min(iterations), 4), _WIDEST / len(found))
    middle = (len(found) - 1) / 2
    for number, (name, points) in enumerate(found.items()):
        colour, marker = colours[number % len(colours)], markers[number % len(markers)]
        shift = (number - middle) * dodge
        places = {point.iteration: point for point in points}
        for point in points:
            before = places.get(point.came_from) if point.came_from is not None else None
            if before is not None:
                line = ([before.iteration + shift, point.iteration + shift], [before.value, point.value])
                axes.plot(*line, color=colour, linestyle="--" if dashed and number else "-")
            if point.low is not None and point.high is not None:
                axes.vlines(point.iteration + shift, point.low, point.high, color=colour, linewidth=1.4)
        axes.plot(
            [point.iteration + shift for point in points],
            [point.value for point in points],
            color=colour,
            marker=marker,
            linestyle="none",
            label=label_of(name),
        )
        if number == 0 and best in places:
            axes.plot(best + shift, places[best].value, "o", markersize=11, fillstyle="none", color=colour)
    iteration_axis(axes, iterations)


def iteration_axis(axes: Axes, iterations: Sequence[int]) -> None:
    """An axis of iterations, named; the start comes before the first."""
    first, last = min(iterations), max(iterations)
    axes.set_xlim(first - _MARGIN, last + _MARGIN)
    shown = range(first, last + 1, max(1, math.ceil((last - first) / _MOST_TICKS)))
    axes.set_xticks(shown, [iteration_name(iteration) for iteration in shown])
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("iteration")


def iteration_name(iteration: int) -> str:
    """What an iteration is called below an axis."""
    return "start" if iteration < 0 else str(iteration)
