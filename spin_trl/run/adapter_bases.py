"""The base models that a run's adapters name in their configurations: absolute paths, or names on the Hub."""

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
    """Yield the configurations of all adapters of a run: the trained ones, and the one that it started from, if any."""
    for stage in directory.stages():
        if (path := directory.model(stage) / ADAPTER_CONFIG).is_file():
            yield path


def named_base(adapter_config: Path) -> str:
    """Return the base that an adapter's configuration names.

    Raises:
        RunDirectoryError: if the configuration is damaged.
    """
    return str(read_object(adapter_config).get("base_model_name_or_path"))


def set_base(adapter_config: Path, base: str) -> None:
    """Write another base into an adapter's configuration."""
    write_json(adapter_config, {**read_object(adapter_config), "base_model_name_or_path": base})


def name_base_absolutely(folder: Path) -> None:
    """Make a newly saved adapter name its base by an absolute path, so that it can be loaded from any folder.

    Args:
        folder: folder of a model. It is left unchanged if it has no adapter, or if the base is a name on the Hub.
    """
    config = folder / ADAPTER_CONFIG
    if config.is_file():
        base = named_base(config)
        absolute = str(Path(base).resolve())
        if os.path.isdir(base) and base != absolute:
            set_base(config, absolute)


def follow(directory: RunDirectory) -> None:
    """Update the paths of bases inside the run directory in the run's adapters, after the directory was moved or copied.

    The new location is recorded first, then each configuration is replaced atomically. If this is interrupted, the next call
    does the rest. A read-only directory is left unchanged; this package still finds the base of any adapter that it loads.
    """
    ownership = directory.ownership
    try:
        before = ownership.note_place()
        moved = 0
        for config in adapter_configs(directory):
            try:
                named = named_base(config)
            except RunDirectoryError:
                continue  # the run checks and repairs its files next, and loading the adapter raises the error as well
            base = base_in_run(config.parent, named)
            if base is not None and str(base) != named:
                set_base(config, str(base))
                moved += 1
    except OSError as error:
        if error.errno in FORBIDDEN:
            return
        raise
    if moved:
        came = f" was moved from {before}" if before is not None else " was moved"
        logger.warning("%s%s: updated the base paths of %s.", directory.path, came, counted(moved, "adapter"))
