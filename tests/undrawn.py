"""Runs without drawn charts, whose drawing takes a third of the time of so small a run. `tests/report` draws them."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

PNG = b"\x89PNG" + bytes(2_000)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1" width="1pt" height="1pt"></svg>'


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Make every chart an empty picture, in this process."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    from spin_trl.report.drawing import Chart

    def savefig(figure: Any, file: Path | io.BufferedIOBase, **settings: Any) -> None:
        if isinstance(file, Path):
            file.write_bytes(PNG)
        else:
            file.write(PNG)

    def print_svg(canvas: Any, buffer: io.StringIO, **settings: Any) -> None:
        buffer.write(SVG)

    patch.setattr(Chart, "draw", lambda chart, figure: SimpleNamespace(set_title=lambda title: None))
    patch.setattr(Figure, "savefig", savefig)
    patch.setattr(FigureCanvasSVG, "print_svg", print_svg)
