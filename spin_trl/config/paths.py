"""Settings that name a file or a folder, and how they are seen from another folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import home_expanded
from .traits import PATHS

if TYPE_CHECKING:  # the command line starts without transformers
    from transformers import TrainingArguments


def output_folder(args: TrainingArguments) -> Path:
    """`output_dir`, which the settings themselves fill in where it is left out."""
    assert args.output_dir is not None
    return Path(args.output_dir)


def is_same_path(before: Any, now: Any, paths_from: Path | None) -> bool:
    """Whether two settings are equal, or name one file or folder.

    Args:
        before: as it was written down.
        now: seen from the current folder.
        paths_from: from where `before` is seen; None: the current folder.
    """
    if not isinstance(before, str) or not isinstance(now, str):
        return before == now
    one, other = home_expanded((paths_from or Path.cwd()) / home_expanded(before)), home_expanded(now)
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        # One of them is no path, like a name on the Hub, or not there any more.
        return before == now


def found_from(paths_from: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Frozen settings with paths that can be used from the current folder.

    Args:
        paths_from: folder from which relative paths are seen.
        settings: as they were written down.
    """
    if paths_from == Path.cwd():
        return settings

    def found(value: Any, *, is_new: bool = False) -> Any:
        is_relative = isinstance(value, str) and value and not value.startswith("~") and not Path(value).is_absolute()
        return str(paths_from / value) if is_relative and (is_new or os.path.exists(paths_from / value)) else value

    settings = {name: found(value) if name in PATHS else value for name, value in settings.items()}
    if "run_dir" in settings:
        settings["run_dir"] = found(settings["run_dir"], is_new=True)
    python = settings.get("python")
    if isinstance(python, dict):
        settings["python"] = {**python, "model": found(python.get("model"))}
    return settings
