"""Checks of the settings of DPO on top: where it starts (`then_dpo`), and those of DPOConfig (`dpo_X`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from trl import DPOConfig

from ..errors import RecipeError, nearest
from ..objectives.registry import losses_of_trl
from .traits import DPO_PREFIX, SET_BY_DPO
from .trl_args import TrlArgs

OF_BEST, OF_LAST, OF_START, OF_BASE = ORIGINS = ("best", "last", "start", "base")
"""Values of `then_dpo` in addition to the names of iterations: the models that DPO starts from."""

ITERATION_NAME = re.compile(r"iteration-(\d+)")
"""Pattern of the name of an iteration."""

OF_DPO = TrlArgs(DPOConfig, DPO_PREFIX, "DPO", SET_BY_DPO)
"""The settings of DPOConfig that a recipe may set as `dpo_X`."""


def check_dpo_args(values: Any) -> dict[str, Any]:
    """Check the settings of DPO on top, and convert them to their types; arguments and errors as for [`TrlArgs.check`]."""
    checked = OF_DPO.check(values)
    losses, known = checked.get("loss_type", []), losses_of_trl()
    for loss in [losses] if isinstance(losses, str) else losses:
        if known and loss not in known:
            raise RecipeError(
                f"`{DPO_PREFIX}loss_type` is {loss!r}, which is not a loss of DPOTrainer{nearest(loss, known)} Known are "
                f"{', '.join(known)}."
            )
    return checked


def check_origins(names: Sequence[str]) -> None:
    """Raise if a value of `then_dpo` can't name a model of a run.

    Raises:
        RecipeError: if it is neither an iteration's name nor one of [`ORIGINS`], or is there twice.
    """
    for name in names:
        if name not in ORIGINS and ITERATION_NAME.fullmatch(name) is None:
            raise RecipeError(
                f"`then_dpo` has {name!r}, which is no model of a run{nearest(name, [*ORIGINS, 'iteration-0'])} Possible "
                f"are {', '.join(ORIGINS)} and the iterations (iteration-0, ...)."
            )
        if names.count(name) > 1:
            raise RecipeError(f"`then_dpo` has {name!r} twice.")
