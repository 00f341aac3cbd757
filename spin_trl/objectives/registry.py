"""What `loss_type` can name beside TRL's own: which function, what it is given, which settings are its, what was published.

The trainer and the settings know the objectives through this table alone.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from trl import DPOConfig

from ..errors import RecipeError
from . import iris_order
from .gsil import GSIL_LOSSES, gsil
from .iris import iris, iris_figures
from .simpo import simpo
from .space import space
from .spif import spif
from .spin import sigmoid
from .tspin import tspin

POLICY = ("policy_real_logps", "policy_generated_logps")
OPPONENT = ("opponent_real_logps", "opponent_generated_logps")
PROTO = ("policy_proto_logps",)
LENGTHS = ("real_lengths", "generated_lengths")


@dataclass(frozen=True)
class LossType:
    """An objective as `loss_type` knows it.

    Attributes:
        function: the objective, of the module of its name; one loss a pair, or one for the batch.
        inputs: names of the tensors that it takes.
        settings: those of `SPINConfig` that are its own, with the published values. Without its prefix, a setting's name
            is the function's argument: `tspin_alpha` is T-SPIN's `alpha`.
        couples_pairs: whether it is a function of the whole batch.
        figures: what is logged beside the loss: a function that takes what `function` takes and returns numbers by name.
        by_trl: whether TRL computes it in training; here it serves to measure.
        without_proto: settings that hold instead where there are no proto responses, as at iteration 0.
    """

    function: Callable[..., torch.Tensor]
    inputs: tuple[str, ...] = POLICY + OPPONENT
    settings: Mapping[str, float] = field(default_factory=dict)
    couples_pairs: bool = False
    figures: Callable[..., dict[str, torch.Tensor]] | None = None
    by_trl: bool = False
    without_proto: Mapping[str, float] = field(default_factory=dict)

    @property
    def needs_opponent(self) -> bool:
        """Whether it compares with the opponent's log-probabilities."""
        return OPPONENT[0] in self.inputs

    @property
    def needs_proto(self) -> bool:
        """Whether it takes θ_0's responses, too."""
        return PROTO[0] in self.inputs

    def __call__(self, tensors: Mapping[str, torch.Tensor | None], values: Mapping[str, Any]) -> torch.Tensor:
        """The loss.

        Args:
            tensors: at least those that it takes, by name.
            values: at least its settings, by their names in `SPINConfig`.
        """
        return self.function(**self._arguments(tensors, values))

    def measure(
        self, tensors: Mapping[str, torch.Tensor | None], values: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        """The figures to log, by name; arguments as for the loss."""
        return {} if self.figures is None else self.figures(**self._arguments(tensors, values))

    def _arguments(self, tensors: Mapping[str, torch.Tensor | None], values: Mapping[str, Any]) -> dict[str, Any]:
        if self.needs_proto and tensors[PROTO[0]] is None:
            values = {**values, **self.without_proto}
        settings = {name.partition("_")[2] or name: values[name] for name in self.settings}
        return {name: tensors[name] for name in self.inputs} | settings


_GSIL_BERNOULLI = {"gsil_scale": 0.01, "gsil_shift": 2.0}
"""Of the authors' script, which has the Bernoulli loss."""

_GSIL_SETTINGS = {"gsil_scale": 0.1, "gsil_shift": 0.0}
"""Of the other losses none are published: SPIN's scale, and no shift (with the script's, hinge would not see real ones)."""

LOSS_TYPES: Mapping[str, LossType] = MappingProxyType(
    {
        "sigmoid": LossType(sigmoid, settings={"beta": 0.1}, by_trl=True),
        "space": LossType(space, settings={"space_mu": 1.0}),
        "tspin": LossType(
            tspin,
            POLICY + PROTO,
            {"tspin_alpha": 1.0, "tspin_beta": 0.1},
            without_proto={"tspin_beta": 0.0},
        ),
        # SPIN's scale, and a bound of 1: the paper's own values could not be read.
        "spif": LossType(spif, settings={"spif_reward_scale": 0.1, "spif_reward_bound": 1.0}),
        "iris": LossType(iris, settings={"iris_alpha": 3.0}, couples_pairs=True, figures=iris_figures),
        "simpo": LossType(simpo, POLICY + LENGTHS, {"simpo_beta": 2.0, "simpo_gamma": 0.5}),
        **{
            f"gsil_{name}": LossType(
                functools.partial(gsil, divergence=name),
                settings=_GSIL_BERNOULLI if name == "bernoulli" else _GSIL_SETTINGS,
            )
            for name in GSIL_LOSSES
        },
    }
)
"""By the name in `loss_type`. Published values are the papers'; SPACE's `mu` is the number of generations a prompt."""

OURS = frozenset(name for name, found in LOSS_TYPES.items() if not found.by_trl)
"""Those that TRL does not have."""

REFERENCE_FREE = frozenset(name for name, found in LOSS_TYPES.items() if not found.needs_opponent) | {"sft"}
"""Those that need no opponent's log-probabilities, TRL's `sft` among them."""

OWN_SETTINGS: tuple[str, ...] = (
    *dict.fromkeys(name for found in LOSS_TYPES.values() if not found.by_trl for name in found.settings),
    "iris_schedule",
)
"""Settings of `SPINConfig` that have a meaning for objectives of ours only."""

_LEAST = {"tspin_beta": 0.0, "simpo_gamma": -math.inf, "gsil_shift": -math.inf}
"""Of settings that need not be positive."""


def check_losses(losses: Iterable[str]) -> None:
    """Raise if there is no such loss: a trainer would say so when it computes the first one, after hours of generation.

    Raises:
        RecipeError: a loss is neither ours nor named by TRL; the nearest name is given.
    """
    # TRL has no list of its losses but in the help of the setting.
    theirs = re.findall(r"`'(\w+)'`", DPOConfig.__dataclass_fields__["loss_type"].metadata.get("help", ""))
    known = [*OURS, *theirs]
    for loss in losses:
        if theirs and loss not in known:
            near = difflib.get_close_matches(loss, known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            raise RecipeError(f"There is no `loss_type` {loss!r}{meant} Known are {', '.join(sorted(known))}.")


def use_beta(losses: Iterable[str]) -> bool:
    """Whether one of these losses looks at `beta`: all of TRL's do, but `sft`."""
    return not OURS.issuperset(set(losses) - {"sft"})


def own_settings(losses: Iterable[str]) -> set[str]:
    """The names of the settings that belong to these losses."""
    found = {name for loss in losses if loss in OURS for name in LOSS_TYPES[loss].settings}
    return found | ({"iris_schedule"} if "iris_alpha" in found else set())


def published(losses: Iterable[str]) -> dict[str, float]:
    """The settings of these losses as they were published, for one iteration: SPACE's mu is 1, IRIS's order the first."""
    found: dict[str, float] = {}
    for loss in losses:
        found |= LOSS_TYPES[loss].settings if loss in OURS else {}
    return found


def resolve_settings(losses: Sequence[str], given: Mapping[str, Any], num_generations: int) -> dict[str, Any]:
    """The settings of these losses: as given, or else as published.

    Args:
        losses: names of losses, TRL's among them.
        given: by name, None for those that were left out.
        num_generations: generated responses per prompt, which is SPACE's mu unless it is given.

    Returns:
        The settings that belong to the losses. `iris_alpha` stays None where the schedule has its own orders.

    Raises:
        RecipeError: a setting belongs to none of the losses, or is out of range.
    """
    own = own_settings(losses)
    for name, value in given.items():
        if value is not None and name not in own:
            owners = [loss for loss, found in LOSS_TYPES.items() if name in found.settings] or ["iris"]
            raise RecipeError(
                f"`{name}` has no meaning for {_quoted(losses)}: it belongs to {_quoted(owners)}. Leave it out, or choose "
                "that `loss_type`."
            )
    usual: dict[str, Any] = {**published(losses), "iris_schedule": "gap", "iris_alpha": None}
    usual["space_mu"] = float(num_generations)
    values = {name: usual[name] if given.get(name) is None else _numeric(name, given[name]) for name in own}
    if "iris_schedule" in own:
        iris_order.check_iris_alpha(values["iris_schedule"], values["iris_alpha"])
    for name in own - {"iris_schedule", "iris_alpha"}:
        least, value = _LEAST.get(name), values[name]
        if not (value > 0 if least is None else value >= least) or math.isinf(value):
            raise RecipeError(
                f"`{name}` is {value:g}; it must be {'positive' if least is None else f'at least {least:g}'}."
            )
    return values


def _numeric(name: str, value: Any) -> Any:
    """A setting as a number, or a list of them; the schedule is neither."""
    if name == "iris_schedule":
        return value
    try:
        return [float(one) for one in value] if name == "iris_alpha" else float(value)
    except (TypeError, ValueError):
        raise RecipeError(f"`{name}` is {value!r}; expected a number.") from None


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
