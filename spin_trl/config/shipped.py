"""What comes with the package beside code: recipes, and configurations of accelerate, each known by a name."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
from pathlib import Path
from typing import Any

from ..errors import RecipeError, nearest
from .checks import shown
from .yaml_files import read_yaml

_PACKAGE = Path(__file__).parents[1]

ACCELERATE = "accelerate"
"""Folder of accelerate's configurations, beside those of the recipes."""


def recipes() -> dict[str, Path]:
    """Recipes by name: a folder's `spin.yaml` has the name of the folder, a variant is `folder/variant`."""
    files = [path for folder in _folders() for path in sorted(folder.glob("*/*.yaml"))]
    return {_name_of_file(path): path for path in files if path.parent.name != ACCELERATE}


def accelerate_configs() -> dict[str, Path]:
    """Configurations of accelerate by name: `ddp`, `zero3`, ..."""
    return {path.stem: path for folder in _folders() for path in sorted((folder / ACCELERATE).glob("*.yaml"))}


def name_of(recipe: Path) -> str | None:
    """The name of a recipe that ships with the package, or that lies beside a `spin.yaml` as one does; None of others."""
    if recipe.name == "spin.yaml" or (recipe.parent / "spin.yaml").is_file():
        return _name_of_file(recipe)
    return None


_READ: dict[str, tuple[type, str]] = {
    "num_machines": (int, "a whole number"),
    "num_processes": (int, "a whole number"),
    "deepspeed_config": (dict, "settings, as `key: value` lines"),
    "fsdp_config": (dict, "settings, as `key: value` lines"),
}
"""What this package reads of a configuration of accelerate."""


def read_accelerate_config(name: str) -> dict[str, Any]:
    """A configuration of accelerate for the launches of one machine, as a mapping.

    Args:
        name: its file, or the name of one that ships with the package (`zero3`).

    Raises:
        RecipeError: there is none, it is no mapping, a value is of another kind, or it is for several machines.
    """
    path = accelerate_config_file(name)
    config = read_yaml(path, f"`accelerate_config`: {path}")
    if not config:
        raise RecipeError(f"`accelerate_config`: {path} holds no settings.")
    for name, (kind, expected) in _READ.items():
        value = config.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise RecipeError(f"`accelerate_config`: `{name}` in {path} is {shown(value)}; expected {expected}.")
    if (config.get("num_machines") or 1) > 1:
        raise RecipeError(
            f"`accelerate_config`: {path} is for {config['num_machines']} machines, and this loop launches processes on its "
            "own machine alone. On several, every phase is launched on all of them: `accelerate launch ... -m spin_trl "
            "generate|train|evaluate RUN --iteration T`. recipes/accelerate/slurm.sh does that."
        )
    return config


def accelerate_config_file(name: str) -> Path:
    """The file that a name means."""
    path, known = Path(os.path.expanduser(name)), accelerate_configs()
    if name in known and not os.path.isfile(path):
        return known[name]
    if os.path.exists(path) and not os.path.isfile(path):  # a folder; or a device, which has no end
        raise RecipeError(
            f"`accelerate_config`: {path} is no file. Name a file of accelerate's, or one of {sorted(known)}."
        )
    if not os.path.exists(path) and path.suffix not in (".yaml", ".yml", ".json"):
        raise RecipeError(
            f"`accelerate_config`: there is no file {name!r}, and no such configuration{nearest(name, known)} Shipped are: "
            f"{', '.join(sorted(known))}."
        )
    return path


def _folders() -> list[Path]:
    """Where they may lie, the one that counts last."""
    folders = [_PACKAGE / "recipes"]
    tree = _PACKAGE.parent
    if (tree / "setup.cfg").is_file():  # where the package is installed, `recipes` beside it is another package's
        folders.insert(0, tree / "recipes")
    with contextlib.suppress(ModuleNotFoundError):  # a source tree that is not installed
        folders.append(Path(str(importlib.resources.files("spin_trl.recipes"))))
    return folders


def _name_of_file(path: Path) -> str:
    return path.parent.name if path.stem == "spin" else f"{path.parent.name}/{path.stem}"
