"""Sets up DPO in the runs of a comparison: which models it trains, and that its settings are the same in all runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...config.dpo import OF_BEST, OF_LAST, OF_START
from ...config.dpo_on_top import dpo_values
from ...config.recipe import Recipe
from ...config.traits import DPO_PREFIX, OF_AN_ARM, OF_DPO_PACE, SFT_FIRST
from ...errors import RecipeError
from ...run.directory import RunDirectory
from ...run.stage import DPO, START
from .arms import THEN, Arm


def check_chains(arms: Mapping[str, Arm], recipe: Recipe) -> None:
    """Raise if arms are chains of steps that this recipe can't play.

    Args:
        arms: the arms, by their names as given.
        recipe: the recipe.

    Raises:
        RecipeError: if an arm begins with SFT first and the recipe does not, or if there are no pairs for DPO.
    """
    for name, arm in arms.items():
        if arm.has_sft and recipe.play.start != SFT_FIRST:
            instead = f" {THEN} ".join([arm.self_play or START, *([DPO] if arm.has_dpo else [])])
            raise RecipeError(
                f"The arm {name!r} begins with SFT, but this recipe does not. Set `start: sft`, or use the arm {instead!r}, "
                "which begins with the given model."
            )
        if arm.has_dpo and recipe.data.dpo_name is None:
            raise RecipeError(f"The arm {name!r} needs preference pairs to train on: name them with `dpo_name`.")


def check_equal_dpo(players: Collection[str], arm_settings: Mapping[str, Mapping[str, Any]], recipe: Recipe) -> None:
    """Raise if DPO would have different settings in different runs.

    DPO has its own loss and pace, but shares all other settings with the iterations of its run.

    Args:
        players: names of the self-play arms whose runs train with DPO.
        arm_settings: settings of individual arms.
        recipe: the recipe.

    Raises:
        RecipeError: if an arm sets a setting that DPO shares.
    """
    own = dpo_values(recipe.play)
    for name in players if len(players) > 1 else ():
        shared = [one for one in arm_settings.get(name, {}) if one in OF_AN_ARM - OF_DPO_PACE and one not in own]
        if shared:
            raise RecipeError(
                f"`--arm_settings` sets {shared[0]!r} for {name!r}. DPO in that arm's run would use it, too, but DPO in the "
                f"other runs would not. Set `{DPO_PREFIX}{shared[0]}`, which applies to DPO in all runs."
            )


def ask_for_dpo(recipe: Recipe, arms: Sequence[Arm], directory: RunDirectory) -> None:
    """Set `then_dpo` of a run to the models that its arms train with DPO, and no others.

    DPO on top of self-play trains the model that self-play delivers, or the last iteration's if the recipe has
    `then_dpo: last`.

    Args:
        recipe: the run's recipe, which is changed.
        arms: arms with DPO that are played in the run.
        directory: directory of the run, which may have been played before with other arms.
    """
    given = recipe.play.then_dpo or []
    of_self_play = OF_LAST if OF_LAST in given and OF_BEST not in given else OF_BEST
    named = [OF_START] if any(not arm.losses for arm in arms) else []
    named += [of_self_play] if any(arm.losses for arm in arms) else []
    # Models that an earlier call has trained stay in the run, with the settings they were trained with.
    before = [str(stage.origin) for stage in directory.stages() if stage.arm == DPO]
    recipe.play.then_dpo = named or before or None
    if recipe.play.then_dpo is None:
        recipe.play.dpo_args = recipe.play.dpo_max = recipe.data.dpo_name = recipe.data.dpo_config = None
