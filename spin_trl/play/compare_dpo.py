"""Settings of a comparison's runs for arms that end with DPO: which models it trains, with the same settings in all runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..config.dpo import OF_BEST, OF_LAST, OF_START
from ..config.dpo_on_top import dpo_values
from ..config.recipe import Recipe
from ..config.traits import DPO_PREFIX, OF_AN_ARM, OF_DPO_PACE, SFT_FIRST
from ..errors import RecipeError
from ..run.directory import RunDirectory
from ..run.stage import DPO, START
from .arms import THEN, Arm


def check_chains(arms: Mapping[str, Arm], recipe: Recipe) -> None:
    """Raise if arms are named as chains that this recipe does not play.

    Args:
        arms: the arms, by the names that they were given.
        recipe: the recipe.

    Raises:
        RecipeError: if an arm begins with SFT first and the recipe does not, or if there are no pairs for DPO.
    """
    for name, arm in arms.items():
        if arm.has_sft and recipe.play.start != SFT_FIRST:
            instead = f" {THEN} ".join([arm.self_play or START, *([DPO] if arm.has_dpo else [])])
            raise RecipeError(
                f"The arm {name!r} begins with SFT first, which this recipe does not do. Set `start: sft`, or name the arm "
                f"{instead!r}, which begins with the given model."
            )
        if arm.has_dpo and recipe.data.dpo_name is None:
            raise RecipeError(f"The arm {name!r} trains on preference pairs: name them with `dpo_name`.")


def check_equal_dpo(players: Collection[str], arm_settings: Mapping[str, Mapping[str, Any]], recipe: Recipe) -> None:
    """Raise if DPO would have other settings in one run than in another.

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
                f"`--arm_settings` sets {shared[0]!r} for {name!r}, which DPO in its run would share, but not in those of "
                f"other arms. Set `{DPO_PREFIX}{shared[0]}`, which is the same for DPO in all of them."
            )


def ask_for_dpo(recipe: Recipe, arms: Sequence[Arm], directory: RunDirectory) -> None:
    """Let a run train the models that arms end with, and no others.

    DPO on top of self-play trains the model that self-play delivers, or with `then_dpo: last` in the recipe that of the last
    iteration.

    Args:
        recipe: the run's recipe, which is changed.
        arms: arms with DPO that are played in the run.
        directory: directory of the run, which may have been played before with other arms.
    """
    given = recipe.play.then_dpo or []
    of_self_play = OF_LAST if OF_LAST in given and OF_BEST not in given else OF_BEST
    named = [OF_START] if any(not arm.losses for arm in arms) else []
    named += [of_self_play] if any(arm.losses for arm in arms) else []
    # What an earlier call has trained stays in the run, with the settings that it was trained with.
    before = [str(stage.origin) for stage in directory.stages() if stage.arm == DPO]
    recipe.play.then_dpo = named or before or None
    if recipe.play.then_dpo is None:
        recipe.play.dpo_args = recipe.play.dpo_max = recipe.data.dpo_name = recipe.data.dpo_config = None
