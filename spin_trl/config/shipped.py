"""What comes with the package beside code: recipes, and configurations of accelerate, each known by a name."""

from __future__ import annotations

import contextlib
import importlib.resources
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]

ACCELERATE = "accelerate"
"""Folder of accelerate's configurations, beside those of the recipes."""


def recipes() -> dict[str, Path]:
    """Recipes by name: a folder's `spin.yaml` has the name of the folder, a variant is `folder/variant`."""
    files = [path for folder in _folders() for path in sorted(folder.glob("*/*.yaml"))]
    return {_name(path): path for path in files if path.parent.name != ACCELERATE}


def accelerate_configs() -> dict[str, Path]:
    """Configurations of accelerate by name: `ddp`, `zero3`, ..."""
    return {path.stem: path for folder in _folders() for path in sorted((folder / ACCELERATE).glob("*.yaml"))}


def name_of(recipe: Path) -> str | None:
    """The name of a recipe that ships with the package, or that lies beside a `spin.yaml` as one does; None of others."""
    if recipe.name == "spin.yaml" or (recipe.parent / "spin.yaml").is_file():
        return _name(recipe)
    return None


def _folders() -> list[Path]:
    """Where they may lie, the one that counts last."""
    folders = [_PACKAGE / "recipes"]
    tree = _PACKAGE.parent
    if (tree / "setup.cfg").is_file():  # where the package is installed, `recipes` beside it is another package's
        folders.insert(0, tree / "recipes")
    with contextlib.suppress(ModuleNotFoundError):  # a source tree that is not installed
        folders.append(Path(str(importlib.resources.files("spin_trl.recipes"))))
    return folders


def _name(path: Path) -> str:
    return path.parent.name if path.stem == "spin" else f"{path.parent.name}/{path.stem}"
