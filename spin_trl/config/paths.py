"""Settings that name a file or folder, and how to resolve them from another folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import home_expanded
from .traits import PATHS

if TYPE_CHECKING:  # the command line starts without transformers
    from transformers import TrainingArguments


def cache_folder() -> Path:
    """Return the folder in which this user's cached files are kept: `spin_trl` in `XDG_CACHE_HOME`, or in `~/.cache`."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    # As the XDG specification requires, a relative path is ignored.
    return (Path(named) if os.path.isabs(named) else Path(os.path.expanduser("~/.cache"))) / "spin_trl"


def output_folder(args: TrainingArguments) -> Path:
    """Return `output_dir`, which the settings fill in themselves if it is left out."""
    assert args.output_dir is not None
    return Path(args.output_dir)


def is_same_path(before: Any, now: Any, paths_from: Path | None) -> bool:
    """Return whether two values are equal or name the same file or folder.

    Args:
        before: recorded value.
        now: value now, relative to the current folder.
        paths_from: folder that `before` is relative to; None: the current folder.
    """
    if not isinstance(before, str) or not isinstance(now, str):
        return before == now
    one, other = home_expanded((paths_from or Path.cwd()) / home_expanded(before)), home_expanded(now)
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        # One of them is not a path (a Hub name, for instance), or no longer exists.
        return before == now


def found_from(paths_from: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return frozen settings with paths that are valid from the current folder.

    Args:
        paths_from: folder that relative paths in the settings refer to.
        settings: recorded settings.
    """
    if paths_from == Path.cwd():
        return settings

    def found(value: Any, *, is_new: bool = False) -> Any:
        is_relative = isinstance(value, str) and value and not value.startswith("~") and not Path(value).is_absolute()
        return str(paths_from / value) if is_relative and (is_new or os.path.exists(paths_from / value)) else value

    def names_a_path(name: str) -> bool:
        """Whether a setting may name a path here: a configuration does so only for a function that makes the data."""
        source = name.removesuffix("_config") + "_name"
        is_configuration = source != name and source in PATHS
        return name in PATHS and not (is_configuration and ":" not in str(settings.get(source) or ""))

    settings = {name: found(value) if names_a_path(name) else value for name, value in settings.items()}
    if "run_dir" in settings:
        settings["run_dir"] = found(settings["run_dir"], is_new=True)
    python = settings.get("python")
    if isinstance(python, dict):
        settings["python"] = {**python, "model": found(python.get("model"))}
    return settings
