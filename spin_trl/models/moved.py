"""Where the base of an adapter lies after the run directory that holds both was moved or copied.

PEFT's configuration of an adapter names its base by an absolute path, so that whoever knows PEFT alone can load it. A run's
own start is known by its place in the directory; any other base in there is found by the places at which the directory has
been, which its marker lists.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import ADAPTER_CONFIG, RUN_MARKER, read_json

DEPTH = 6
"""Folders between a run directory and its deepest adapter: `baseline/ARM/iteration-0/train/checkpoint-8`."""


def base_in_run(adapter: Path, named: str) -> Path | None:
    """Where an adapter's base lies in the directory of the run that has trained it.

    Args:
        adapter: its folder.
        named: what its configuration names as the base.

    Returns:
        The folder of the base; None if the base lies elsewhere, or no run has trained the adapter.
    """
    here = Path(os.path.abspath(adapter)).resolve()
    for root in here.parents[:DEPTH]:
        marker = _marker(root)
        if marker is not None:
            names = marker["entries"]
            if here.relative_to(root).parts[0] not in names.values():
                return None  # an adapter of the user's
            return _start(root / names.get("start", "start"), here) or _at_former_place(root, marker, named)
        if not os.path.isdir(named) and Path(named).parts[-2:-1] == ("start",):  # of version 0.1.0, without a marker
            found = _start(root / "start", here)
            if found is not None and found.name == Path(named).name:
                return found
    return None


def _start(folder: Path, adapter: Path) -> Path | None:
    """The base that a run has made or kept for itself: then all its adapters are trained on that one."""
    for place in (folder / "base", folder / "model"):
        if place != adapter and place.is_dir() and not (place / ADAPTER_CONFIG).exists():
            return place
    return None


def _at_former_place(root: Path, marker: Mapping[str, Any], named: str) -> Path | None:
    """Where a base lies now that lay in the run directory when that was at another place."""
    for place in reversed(marker.get("places") or ()):
        if Path(named).is_relative_to(place):
            found = root / Path(named).relative_to(place)
            return found if found.is_dir() else None
    return None


def _marker(folder: Path) -> dict[str, Any] | None:
    """The marker of a run directory; None if there is none that can be read."""
    try:
        found = read_json(folder / RUN_MARKER)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("entries"), dict) else None
