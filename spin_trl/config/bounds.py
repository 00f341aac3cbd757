"""Between which numbers settings lie: what is possible, what trains, and what is usual. They stand in `bounds.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from .checks import Bounds


def _bounds(written: str | list[str | float]) -> Bounds:
    """An interval like `[0, 1)`; in a list with what is wrong outside, and with single numbers that are in order there."""
    interval, *more = [written] if isinstance(written, str) else written
    why, *also = more or [""]
    low, high = str(interval)[1:-1].split(",")
    return Bounds(
        float(low),
        float(high),
        low_open=str(interval).startswith("("),
        high_open=str(interval).endswith(")"),
        why=str(why),
        also=tuple(float(number) for number in also),
    )


_BY_KIND = {
    kind: {name: _bounds(written) for name, written in by_name.items()}
    for kind, by_name in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")).items()
}

POSSIBLE: Mapping[str, Bounds] = _BY_KIND["possible"]
"""Outside, no run can mean it."""

TRAINABLE: Mapping[str, Bounds] = {**POSSIBLE, **_BY_KIND["trains"]}
"""Outside, self-play learns nothing, or the opposite."""

OF_RECIPES: Mapping[str, Bounds] = _BY_KIND["recipe"]
"""Outside, a recipe is refused."""

USUAL: Mapping[str, Bounds] = _BY_KIND["usual"]
"""Outside, it is played with a warning."""
