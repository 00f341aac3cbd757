"""Check the environment variables that a recipe sets (`env`). Messages do not repeat values, which may contain a token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..counts import with_article
from ..errors import RecipeError
from .checks import shown
from .traits import HARMLESS_VARIABLES, OF_LAUNCHERS


def environment_of(path: Path, value: Any, *, is_foreign: bool = False) -> dict[str, str]:
    """Return a recipe's environment variables.

    Args:
        path: file of the recipe.
        value: value of the recipe's `env`.
        is_foreign: whether the file comes from a run directory and may only set harmless variables.

    Raises:
        RecipeError: if `env` is not a mapping of names to text or numbers, or sets a variable that it may not set.
    """
    if value is not None and not isinstance(value, Mapping):
        raise RecipeError(
            f"{path}: `env` is {with_article(type(value).__name__)}; expected a mapping, like {{NAME: value}}."
        )
    found = {}
    for name, content in (value or {}).items():
        if not isinstance(name, str) or re.fullmatch(r"[^=\0\ud800-\udfff]+", name) is None:
            raise RecipeError(f"{path}: `env` has {shown(name)}, which is not a valid name of a variable.")
        if not isinstance(content, str | int | float) or re.search(r"[\0\ud800-\udfff]", str(content)):
            raise RecipeError(
                f"{path}: `env` sets {shown(name)} to {with_article(type(content).__name__)}; expected text or a number."
            )
        found[name] = str(content)
    if of_launchers := sorted(OF_LAUNCHERS & found.keys()):
        raise RecipeError(
            f"{path}: `env` sets {', '.join(of_launchers)}, which a launcher uses to tell each process its rank. Leave "
            "them out: `accelerate launch` and a run's own launches (`accelerate_config`) set them."
        )
    refused = sorted(variable for variable in found if variable not in HARMLESS_VARIABLES)
    if is_foreign and refused:
        raise RecipeError(
            f"{path} is in a run directory, and its `env` sets {', '.join(refused)}. A run directory may only set "
            f"{', '.join(sorted(HARMLESS_VARIABLES))}. Remove the others, and set them yourself if you want them."
        )
    return found
