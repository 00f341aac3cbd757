"""Which bases the adapters of a run name in their configurations: absolute paths, or names on the Hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from ..counts import counted
from ..errors import FORBIDDEN, RunDirectoryError
from ..files import ADAPTER_CONFIG, write_json
from ..models.moved import base_in_run
from .directory import RunDirectory
from .objects import read_object

logger = logging.getLogger(__name__)


def adapter_configs(directory: RunDirectory) -> Iterator[Path]:
    """The configurations of all adapters of a run: of those that it has trained, and of the one that it started from."""
    for stage in directory.stages():
        if (path := directory.model(stage) / ADAPTER_CONFIG).is_file():
            yield path


def named_base(adapter_config: Path) -> str:
    """What an adapter's configuration names as its base.

    Raises:
        RunDirectoryError: it is damaged.
    """
    return str(read_object(adapter_config).get("base_model_name_or_path"))


def set_base(adapter_config: Path, base: str) -> None:
    """Let an adapter's configuration name another base."""
    write_json(adapter_config, {**read_object(adapter_config), "base_model_name_or_path": base})


def name_base_absolutely(folder: Path) -> None:
    """Let an adapter that was just saved name its base by an absolute path, so that it can be loaded from any folder.

    Args:
        folder: of a model. One without an adapter, or whose base is a name on the Hub, stays as it is.
    """
    config = folder / ADAPTER_CONFIG
    if config.is_file():
        base = named_base(config)
        absolute = str(Path(base).resolve())
        if os.path.isdir(base) and base != absolute:
            set_base(config, absolute)


def follow(directory: RunDirectory) -> None:
    """Let the adapters of a run name the bases in its directory where they are now, after it was moved or copied.

    The new place is written down first, then each configuration as a whole file. Whatever interrupts this, the next call
    does the rest. A directory that can't be written to stays as it is: what this package loads finds its base all the same.
    """
    ownership = directory.ownership
    try:
        before = ownership.note_place()
        moved = 0
        for config in adapter_configs(directory):
            try:
                named = named_base(config)
            except RunDirectoryError:
                continue  # what the run has made is looked at next, and mended; what loads it says so, too
            base = base_in_run(config.parent, named)
            if base is not None and str(base) != named:
                set_base(config, str(base))
                moved += 1
    except OSError as error:
        if error.errno in FORBIDDEN:
            return
        raise
    if moved:
        came = f" was at {before} before" if before is not None else " was moved"
        logger.warning(
            "%s%s: %s name their bases where they are now.", directory.path, came, counted(moved, "adapter")
        )
