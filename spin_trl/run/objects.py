"""Reads the JSON files of a run. What is wrong with a damaged one is said with the file, the key, and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import RunDirectoryError
from ..files import read_json
from .directory import RunDirectory
from .stage import Stage

PLAYED_AGAIN = "`spin-trl run` on the run directory makes it again, or says what that takes."
"""Way out where a file is damaged that a step of the run has made."""


def read_object(path: Path, way_out: str = PLAYED_AGAIN) -> dict[str, Any]:
    """An object of JSON in a run's file; empty if there is no such file.

    Args:
        path: of the file.
        way_out: what a user can do where it is damaged.

    Raises:
        RunDirectoryError: it is something else, or no JSON.
    """
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error.__cause__ or error}. {way_out}") from error
    if not isinstance(found, dict | None):
        raise RunDirectoryError(f"{path} is damaged: it holds {found!r:.60} instead of an object. {way_out}")
    return found or {}


def read_numbers(path: Path) -> dict[str, float]:
    """An object whose values are numbers; `null`, which stands for none, is left out. Empty if there is no such file.

    Raises:
        RunDirectoryError: it is something else.
    """
    return _numbers(read_object(path), path)


def read_named_numbers(path: Path) -> dict[str, dict[str, float]]:
    """An object of such objects, like the figures of `values.json` by prompt. Empty if there is no such file.

    Raises:
        RunDirectoryError: it is something else.
    """
    return {name: _numbers(found, path, name) for name, found in read_object(path).items()}


def best_stage(directory: RunDirectory) -> Stage | None:
    """The stage that a run delivers, by its `best.json`; None if there is no such file yet.

    Raises:
        RunDirectoryError: it names none.
    """
    path = directory.best
    name = read_object(path).get("stage")
    if name is None and not path.exists():
        return None
    try:
        return Stage(str(name))
    except ValueError as error:
        raise RunDirectoryError(
            f"{path} is damaged: `stage` is {name!r:.60} instead of a model's name. `spin-trl run` on the run directory "
            "writes it again."
        ) from error


def _numbers(found: Any, path: Path, key: str | None = None) -> dict[str, float]:
    where = "" if key is None else f"`{key}` is "
    if not isinstance(found, dict):
        raise RunDirectoryError(f"{path} is damaged: {where}{found!r:.60} instead of an object. {PLAYED_AGAIN}")
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise RunDirectoryError(
                f"{path} is damaged: `{name}` is {value!r:.60} instead of a number. {PLAYED_AGAIN}"
            )
    return {name: value for name, value in found.items() if value is not None}
