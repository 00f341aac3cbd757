"""An input consists of files written into a folder, and a command; its seed alone determines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from . import (
    command_lines,
    configurations,
    data_files,
    functions,
    models,
    paths,
    recipes,
    runs_on_disk,
    settings,
    surroundings,
)
from .materials import Materials
from .parts import Input

Make = Callable[[Random, Path, Materials], Input]

KINDS: Mapping[str, tuple[int, Make]] = {
    "data files": (30, data_files.make),
    "recipes": (18, recipes.make),
    "settings": (20, settings.make),
    "command lines": (4, command_lines.make),
    "paths": (6, paths.make),
    "functions": (4, functions.make),
    "journals": (7, runs_on_disk.make_journal),
    "manifests": (7, runs_on_disk.make_manifest),
    "shards": (4, runs_on_disk.make_shard),
    "models": (10, models.make),
    "surroundings": (5, surroundings.make),
    "configurations": (3, configurations.make),
}
"""Kinds of inputs: the weight of each, and the function that creates one."""


def kind_of(seed: int) -> str:
    """Return the kind of an input."""
    weights = [weight for weight, _ in KINDS.values()]
    return Random(f"kind {seed}").choices(list(KINDS), weights)[0]


def make(seed: int, folder: Path, materials: Materials) -> Input:
    """Write an input into an empty folder."""
    return KINDS[kind_of(seed)][1](Random(seed), folder, materials)
