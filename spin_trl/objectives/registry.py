"""The losses that `loss_type` can name: objectives found in this folder's modules, and checks of names and settings.

The trainer and the settings know the objectives only through these tables.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from trl import DPOConfig

from ..errors import RecipeError, nearest
from .objective import Method, Objective

_NO_OBJECTIVE = {"base", "fields", "objective", "registry", "terms"}
"""Modules of this folder that define no objective."""


def _find() -> list[Method]:
    """Return the methods of all modules, those about self-play first, and each kind in the order of the papers."""
    folder = importlib.import_module(__package__)
    names = sorted({found.name for found in pkgutil.iter_modules(folder.__path__)} - _NO_OBJECTIVE)
    modules = [importlib.import_module(f"{__package__}.{name}") for name in names]
    methods = [value for module in modules for value in vars(module).values() if isinstance(value, Method)]
    return sorted(methods, key=lambda method: (method.is_baseline, method.paper is None, method.paper))


METHODS: Mapping[str, Method] = MappingProxyType({method.loss_type: method for method in _find()})
"""Descriptions of losses, by the name in `loss_type`; of TRL's losses, only those that papers on self-play name."""

LOSS_TYPES: Mapping[str, Objective[Any]] = MappingProxyType(
    {name: method for name, method in METHODS.items() if isinstance(method, Objective)}
)
"""Objectives by the name in `loss_type`."""

OURS = frozenset(name for name, found in LOSS_TYPES.items() if not found.by_trl)
"""Names of the objectives that TRL does not have."""

REFERENCE_FREE = frozenset(name for name, found in LOSS_TYPES.items() if not found.needs_opponent) | {"sft"}
"""Names of the losses that need no log-probabilities of the opponent, including TRL's `sft`."""

_OWN = tuple(dict.fromkeys(type(LOSS_TYPES[name].published) for name in LOSS_TYPES if name in OURS))

OWN_SETTINGS = tuple(known.name for settings in _OWN for known in fields(settings))
"""Settings of `SPINConfig` that only affect our objectives."""

# A dataclass takes the fields of its last base first. A type checker can't know which modules are found: for a class that
# inherits from this it still knows all other fields, and accepts further ones.
ObjectiveSettings: Any = type("ObjectiveSettings", _OWN[::-1], {})


def methods_of(losses: Sequence[str]) -> list[Method]:
    """Return the methods of losses; for a loss that only TRL knows, a method with its name."""
    return [METHODS.get(loss) or Method(loss, f"TRL's `{loss}`") for loss in losses]


def losses_of_trl() -> list[str]:
    """Return the losses that TRL lists as its own; an empty list if it no longer lists them."""
    # TRL lists its losses only in the help text of the setting.
    return re.findall(r"`'(\w+)'`", DPOConfig.__dataclass_fields__["loss_type"].metadata.get("help", ""))


def check_losses(losses: Iterable[str]) -> None:
    """Raise if a loss does not exist. A trainer would fail only when it computes the first loss, after hours of generation.

    Raises:
        RecipeError: if a loss is neither ours nor listed by TRL; the message names the nearest one.
    """
    theirs = losses_of_trl()
    known = sorted({*OURS, *theirs})
    guesses = {guess: method.loss_type for method in METHODS.values() for guess in method.guesses}
    for loss in losses:
        if theirs and loss not in known:
            meant = nearest(guesses.get(loss.lower(), loss), known)
            raise RecipeError(f"There is no `loss_type` {loss!r}{meant} Known are {', '.join(known)}.")


def use_beta(losses: Iterable[str]) -> bool:
    """Return whether one of these losses uses `beta`: all of TRL's do, except `sft`."""
    return not OURS.issuperset(set(losses) - {"sft"})


def meaningless(losses: Iterable[str]) -> dict[str, Any]:
    """Return the settings of DPO's losses that have no effect on these losses, with the values that turn them off."""
    ours = {"ld_alpha": None, "use_weighting": False, "f_divergence_type": "reverse_kl"}
    of_scale = () if use_beta(losses) else ("beta", "label_smoothing")
    return (ours if OURS & set(losses) else {}) | {name: getattr(DPOConfig, name) for name in of_scale}


def without_mix(losses: Sequence[str]) -> list[str]:
    """Return the losses that rule out mixing the start into the opponent (`opponent_mix`); an empty list if none does.

    Those are losses that use θ_0 in another way (T-SPIN), and all losses if none of them uses the opponent.
    """
    if REFERENCE_FREE.issuperset(losses):
        return [*losses]
    return [loss for loss in losses if loss in OURS and LOSS_TYPES[loss].needs_proto]


def own_settings(losses: Iterable[str]) -> set[str]:
    """Return the names of the settings that belong to these losses."""
    return {name for loss in losses if loss in OURS for name in vars(LOSS_TYPES[loss].published)}


def objectives_of(
    losses: Iterable[str], given: Mapping[str, Any], num_generations: int
) -> list[tuple[Objective[Any], Any]]:
    """Return our objectives among the losses, each with its settings: the given values, or else the published ones.

    Args:
        losses: names of losses, including TRL's.
        given: settings by name; None for those left out.
        num_generations: generated responses per prompt.

    Raises:
        RecipeError: if a setting belongs to none of the losses, or is out of range.
    """
    own = own_settings(losses)
    for name, value in given.items():
        if value is not None and name not in own:
            owners = [loss for loss, found in LOSS_TYPES.items() if name in vars(found.published)]
            raise RecipeError(
                f"`{name}` has no effect with {_quoted(losses)}: it belongs to {_quoted(owners)}. Leave it out, or choose "
                "that `loss_type`."
            )
    return [(LOSS_TYPES[loss], LOSS_TYPES[loss].resolve(given, num_generations)) for loss in losses if loss in OURS]


def values_at(
    chosen: Iterable[tuple[Objective[Any], Any]], iteration: int, num_iterations: int, gap: float | None
) -> dict[str, Any]:
    """Return the settings of objectives at an iteration, with a single number for those that vary by iteration.

    Args:
        chosen: objectives with their settings.
        iteration, num_iterations, gap: as for [`Objective.at`].
    """
    values: dict[str, Any] = {}
    for objective, own in chosen:
        now = objective.at(own, iteration, num_iterations, gap)
        values |= vars(own) | {name: value[0] for name, value in now.items() if isinstance(value, list)}
    return values


def published(losses: Iterable[str]) -> dict[str, Any]:
    """Return the published settings of these losses, at iteration 0, with one generated response per prompt."""
    return values_at(objectives_of(losses, {}, 1), 0, 1, None)


def proto_in_words(losses: Iterable[str] = LOSS_TYPES) -> tuple[str, str]:
    """Return, for messages, the losses that use θ_0's responses, and the settings that make them run without."""
    takers = [LOSS_TYPES[loss] for loss in losses if loss in OURS and LOSS_TYPES[loss].needs_proto]
    off = [f"`{name}: {value:g}`" for taker in takers for name, value in taker.without_proto.items()]
    return " or ".join(f"`{taker.loss_type}`" for taker in takers), " or ".join(off)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
