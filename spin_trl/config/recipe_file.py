"""Find the file of a recipe, and the name that the recipe has if nothing else names it."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import RecipeError, nearest
from ..files import home_expanded
from . import shipped


def find_file(source: str) -> Path:
    """Find the file of a recipe, given a path, a folder, or the name of a recipe that ships with the package.

    Raises:
        RecipeError: if there is none.
    """
    path = home_expanded(source)
    for candidate in (path, path / "recipe.yaml", path / "spin.yaml"):
        if os.path.isfile(candidate):
            return candidate
    known = shipped.recipes()
    if source in known:
        return known[source]
    if os.path.isdir(path):
        reason = f"The folder {source!r} contains neither recipe.yaml nor spin.yaml"
    elif os.path.exists(path):  # a device or a pipe
        reason = f"{source!r} is not a regular file"
    else:
        reason = f"There is no file or folder {source!r}"
    raise RecipeError(
        f"{reason}, and no recipe of that name ships with the package{nearest(source, known)} The package ships "
        f"{', '.join(sorted(known))}."
    )


def name_of_recipe(path: Path) -> str:
    """Return the name of the recipe in a file: the default name of its run and of the run's folder."""
    if path.name == "recipe.yaml":
        return path.absolute().parent.name
    return (shipped.name_of(path.resolve()) or path.stem).replace("/", "-")
