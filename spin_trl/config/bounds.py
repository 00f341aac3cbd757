"""Bounds and choices of settings from `bounds.yaml`: what is possible, what trains, and what is usual."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from pathlib import Path

import yaml

from .checks import Bounds, Choices


def _bounds(written: str | list[str | float]) -> Bounds:
    """Parse an interval like `[0, 1)`, or a list of an interval, what is wrong outside, and single values allowed there."""
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


_WRITTEN = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
_BY_KIND = {
    kind: {name: _bounds(written) for name, written in by_name.items()}
    for kind, by_name in _WRITTEN.items()
    if kind != "choices"
}

POSSIBLE: Mapping[str, Bounds] = _BY_KIND["possible"]
"""Values outside make no sense in any run."""

TRAINABLE: Mapping[str, Bounds] = {**POSSIBLE, **_BY_KIND["trains"]}
"""With values outside, self-play learns nothing, or the opposite."""

OF_RECIPES: Mapping[str, Bounds] = _BY_KIND["recipe"]
"""A recipe with values outside is refused."""

TRL_SETTINGS: Mapping[str, Bounds | Choices] = {
    **TRAINABLE,
    **{name: Choices(tuple(known)) for name, known in _WRITTEN["choices"].items()},
    "dataloader_multiprocessing_context": Choices(multiprocessing.get_all_start_methods()),
}
"""Values of TRL's and transformers' settings with which training works: both libraries check them too late, if at all.
Settings that this package declares have their bounds and choices in their fields.
"""

USUAL: Mapping[str, Bounds] = _BY_KIND["usual"]
"""A run with values outside starts with a warning."""
