"""Find the base of an adapter after the run directory that holds both was moved or copied.

PEFT's configuration of an adapter names its base by an absolute path, so that PEFT alone can load it. A run's own start is
found by its place in the directory; any other base in there by the directory's former locations, which its marker lists.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import ADAPTER_CONFIG, RUN_MARKER, read_json

DEPTH = 6
"""Levels between a run directory and its deepest adapter: `baseline/ARM/iteration-0/train/checkpoint-8`."""


def base_in_run(adapter: Path, named: str) -> Path | None:
    """Return the location of an adapter's base in the directory of the run that trained it.

    Args:
        adapter: folder of the adapter.
        named: base that its configuration names.

    Returns:
        The folder of the base; None if the base is elsewhere, or no run trained the adapter.
    """
    here = Path(os.path.abspath(adapter)).resolve()
    for root in here.parents[:DEPTH]:
        marker = _marker(root)
        if marker is not None:
            names = marker["entries"]
            if here.relative_to(root).parts[0] not in names.values():
                return None  # the user's own adapter
            # An adapter on the base alone (`dpo/base`) is not on the start.
            own = "base" if here.relative_to(root).parts[1:2] == ("base",) else "start"
            return _start(root / names.get(own, own), here) or _at_former_place(root, marker, named)
        if not os.path.isdir(named) and Path(named).parts[-2:-1] == ("start",):  # a run of version 0.1.0 has no marker
            found = _start(root / "start", here)
            if found is not None and found.name == Path(named).name:
                return found
    return None


def _start(folder: Path, adapter: Path) -> Path | None:
    """Return the base that a run built or stored itself; all its adapters are then trained on that one."""
    for place in (folder / "base", folder / "model"):
        if place != adapter and place.is_dir() and not (place / ADAPTER_CONFIG).exists():
            return place
    return None


def _at_former_place(root: Path, marker: Mapping[str, Any], named: str) -> Path | None:
    """Return the current location of a base that was in the run directory when that was at another location."""
    for place in reversed(marker.get("places") or ()):
        if Path(named).is_relative_to(place):
            found = root / Path(named).relative_to(place)
            return found if found.is_dir() else None
    return None


def _marker(folder: Path) -> dict[str, Any] | None:
    """Return the marker of a run directory; None if there is no readable one."""
    try:
        found = read_json(folder / RUN_MARKER)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("entries"), dict) else None
