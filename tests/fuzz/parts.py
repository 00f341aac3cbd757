"""Defines an input, and helpers that several kinds of inputs share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import runs

from . import values
from .materials import Materials

QUICK: dict[str, Any] = {**runs.SETTINGS, "num_iterations": 1, "held_out_fraction": 0.0, "max_new_tokens": 4}
"""Settings with which a start takes no time: nothing is held out, so nothing is measured."""


@dataclass(frozen=True)
class Input:
    """An input: what a user gives to the command.

    Attributes:
        arguments: arguments of `spin-trl`.
        what: what is odd about it, for people.
        as_nobody: whether it is given by a user without rights.
        digest: digest of the data that the journal must have. The input is valid then, so it has to be accepted; None
            if it may be refused.
        surroundings: surroundings of the command, one of `surroundings.SURROUNDINGS`.
    """

    arguments: list[str]
    what: str
    as_nobody: bool = False
    digest: str | None = None
    surroundings: str | None = None


def settings_of(materials: Materials, **changes: Any) -> dict[str, Any]:
    """Return a small recipe with a valid model and valid data."""
    known = {"model_name_or_path": str(materials.model), "dataset_name": str(materials.data), "run_dir": "run"}
    return {**QUICK, **known, **changes}


def write_recipe(folder: Path, settings: Any) -> str:
    """Write a recipe into the folder of an input; return its name there."""
    (folder / "small.yaml").write_bytes(values.as_utf8(values.as_yaml(settings)))
    return "small.yaml"


def reading_command(rng: Random) -> str:
    """Return a command that reads a recipe and its data, nearly always the one that takes less time."""
    return rng.choices(["start", "plan"], [12, 1])[0]


def put(rng: Random, path: Path, content: bytes) -> str:
    """Write a file, or occasionally let it be missing, a folder, or a link."""
    match rng.randrange(20):
        case 0:
            path.unlink()
            return ", gone"
        case 1:
            path.unlink()
            path.mkdir()
            return ", a folder"
        case 2:
            path.unlink()
            path.symlink_to(path.name)
            return ", a link to itself"
    path.write_bytes(content)
    return ""
