"""Files that ship with the package in addition to code: recipes and configurations of accelerate, found by name."""

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
"""Name of the folder with configurations of accelerate, next to the folders of the recipes."""

SKYPILOT = "skypilot"
"""Folder of the tasks for SkyPilot."""


def recipes() -> dict[str, Path]:
    """Return recipes by name: a folder's `spin.yaml` is named after the folder, a variant is `folder/variant`."""
    files = [path for folder in _folders() for path in sorted(folder.glob("*/*.yaml"))]
    return {_name_of_file(path): path for path in files if path.parent.name not in (ACCELERATE, SKYPILOT)}


def accelerate_configs() -> dict[str, Path]:
    """Return configurations of accelerate by name: `ddp`, `zero3`, ..."""
    return {path.stem: path for folder in _folders() for path in sorted((folder / ACCELERATE).glob("*.yaml"))}


def name_of(recipe: Path) -> str | None:
    """Return the name of a recipe that ships with the package, or has a `spin.yaml` next to it, as those do; else None."""
    ships = recipe.resolve() in {path.resolve() for path in recipes().values()}
    if ships or recipe.name == "spin.yaml" or (recipe.parent / "spin.yaml").is_file():
        return _name_of_file(recipe)
    return None


_READ: dict[str, tuple[type, str]] = {
    "num_machines": (int, "a whole number"),
    "num_processes": (int, "a whole number"),
    "deepspeed_config": (dict, "settings, as `key: value` lines"),
    "fsdp_config": (dict, "settings, as `key: value` lines"),
}
"""Entries that this package reads from a configuration of accelerate."""


def read_accelerate_config(name: str) -> dict[str, Any]:
    """Read a configuration of accelerate for launches on one machine.

    Args:
        name: file, or name of a configuration that ships with the package (`zero3`).

    Raises:
        RecipeError: if there is no such file, it is not a mapping, a value has the wrong type, or it is for several
            machines.
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
            f"`accelerate_config`: {path} is for {config['num_machines']} machines, but this loop only launches processes "
            "on its own machine. On several machines, launch every phase on all of them: `accelerate launch ... -m "
            "spin_trl generate|train|evaluate RUN --iteration T`, as recipes/accelerate/slurm.sh does."
        )
    return config


def accelerate_config_file(name: str) -> Path:
    """Return the file that `accelerate_config` names."""
    path, known = Path(os.path.expanduser(name)), accelerate_configs()
    if name in known and not os.path.isfile(path):
        return known[name]
    if os.path.exists(path) and not os.path.isfile(path):  # a folder; or a device, which has no end
        raise RecipeError(
            f"`accelerate_config`: {path} is not a file. Name a configuration file of accelerate, or one of "
            f"{', '.join(sorted(known))}."
        )
    if not os.path.exists(path) and path.suffix not in (".yaml", ".yml", ".json"):
        raise RecipeError(
            f"`accelerate_config`: there is no file {name!r}, and no configuration of that name{nearest(name, known)} The "
            f"package ships {', '.join(sorted(known))}."
        )
    return path


def _folders() -> list[Path]:
    """Return the folders that may hold shipped files; later ones take precedence."""
    folders = [_PACKAGE / "recipes"]
    tree = _PACKAGE.parent
    if (tree / "setup.cfg").is_file():  # in an installed package, `recipes` next to it belongs to another package
        folders.insert(0, tree / "recipes")
    with contextlib.suppress(ModuleNotFoundError):  # a source tree that is not installed
        folders.append(Path(str(importlib.resources.files("spin_trl.recipes"))))
    return folders


def _name_of_file(path: Path) -> str:
    return path.parent.name if path.stem == "spin" else f"{path.parent.name}/{path.stem}"
