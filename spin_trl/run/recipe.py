"""Reads the recipe that a user names: a file, one shipped with the package, or the frozen settings of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..config.fetched import check_model_is_named
from ..config.recipe import Recipe, read_settings
from .ownership import Ownership
from .recipe_file import find_recipe, frozen_recipe
from .trust import TrustedRuns, run_of_recipe


def read_recipe(
    source: str,
    overrides: Sequence[str] = (),
    losses: Mapping[str, float] | None = None,
    *,
    accept_python: bool = False,
) -> Recipe:
    """Read a recipe. A run's recipe gets the name of the run, and its paths resolve as they did when it was frozen.

    Args:
        source: path of a YAML file, of a folder with `spin.yaml` or of a run directory, or the name of a recipe shipped
            with the package.
        overrides: command-line arguments, like `--learning_rate 1e-6`.
        losses: weights by `loss_type`, instead of the recipe's own. Settings that belong to other losses are dropped.
        accept_python: whether to also read the settings of a run that was started from Python, which can't play it.

    Raises:
        RecipeError: if a key is unknown (the message names the nearest known one), a value is invalid, or the model is
            still the placeholder that `spin-trl init` writes.
    """
    path = find_recipe(source)
    is_frozen = path == frozen_recipe(path.parent)
    owner = run_of_recipe(path)
    recipe = read_settings(
        str(path),
        overrides,
        losses,
        accept_python=accept_python,
        name=path.absolute().parent.name if is_frozen else None,
        paths_from=Ownership(path.parent).paths_from() if is_frozen else None,
        # A user's own file in the folder of a run that was started here may set any environment variables.
        is_foreign=is_frozen or (owner is not None and not TrustedRuns().trusts(owner, {})),
    )
    check_model_is_named(recipe.model.model_name_or_path)
    return recipe
