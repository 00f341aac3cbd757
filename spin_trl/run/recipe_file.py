"""Finds the file of the recipe that a user names: their own, one shipped with the package, or a run's frozen settings."""

from __future__ import annotations

import os
from pathlib import Path

from ..config.recipe_file import find_file
from ..files import home_expanded
from .ownership import RECIPE, Ownership


def find_recipe(source: str) -> Path:
    """Find the file of a recipe.

    Args:
        source: path of a file, a folder or a run directory, or the name of a recipe shipped with the package.

    Raises:
        RecipeError: if there is none.
    """
    frozen = frozen_recipe(home_expanded(source))
    return frozen if frozen is not None and frozen.is_file() else find_file(source)


def frozen_recipe(folder: Path) -> Path | None:
    """Return the frozen recipe of the run in a folder; None if there is no run, or it is one of version 0.1.0."""
    marker = Ownership(folder).marker() if os.path.isdir(folder) else None
    return folder / marker.entries[RECIPE] if marker is not None and RECIPE in marker.entries else None
