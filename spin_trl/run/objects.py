"""Reads the JSON files of a run. Errors about damaged files name the file, the key, and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import RunDirectoryError
from ..files import read_json
from .directory import RunDirectory
from .stage import Stage

PLAYED_AGAIN = "`spin-trl run` on the run directory writes it again, or says what is needed for that."
"""Way out if a file written by a step of the run is damaged."""


def read_object(path: Path, way_out: str = PLAYED_AGAIN) -> dict[str, Any]:
    """Read the JSON object in a run's file; empty if there is no such file.

    Args:
        path: path of the file.
        way_out: advice to the user if the file is damaged.

    Raises:
        RunDirectoryError: if the file is not valid JSON, or not an object.
    """
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error.__cause__ or error}. {way_out}") from error
    if not isinstance(found, dict | None):
        raise RunDirectoryError(f"{path} is damaged: it contains {found!r:.60} instead of an object. {way_out}")
    return found or {}


def read_numbers(path: Path) -> dict[str, float]:
    """Read an object whose values are numbers, leaving out those that are `null`. Empty if there is no such file.

    Raises:
        RunDirectoryError: if the file contains something else.
    """
    return _numbers(read_object(path), path)


def read_named_numbers(path: Path) -> dict[str, dict[str, float]]:
    """Read an object of such objects, like the figures by prompt in `values.json`. Empty if there is no such file.

    Raises:
        RunDirectoryError: if the file contains something else.
    """
    return {name: _numbers(found, path, name) for name, found in read_object(path).items()}


def best_stage(directory: RunDirectory) -> Stage | None:
    """Return the stage that a run delivers according to its `best.json`; None if there is no such file yet.

    Raises:
        RunDirectoryError: if the file does not name a stage.
    """
    path = directory.best
    name = read_object(path).get("stage")
    if name is None and not path.exists():
        return None
    try:
        return Stage(str(name))
    except ValueError as error:
        raise RunDirectoryError(
            f"{path} is damaged: `stage` is {name!r:.60} instead of a stage's name. `spin-trl run` on the run directory "
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
