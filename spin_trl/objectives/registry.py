"""What `loss_type` can name: the objectives of this folder's modules, and checks of names and settings.

The trainer and the settings know the objectives through these tables alone.
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
"""Modules of this folder that every objective stands on."""


def _find() -> list[Method]:
    """The methods of all modules: those that are about self-play first, each kind in the order of the papers."""
    folder = importlib.import_module(__package__)
    names = sorted({found.name for found in pkgutil.iter_modules(folder.__path__)} - _NO_OBJECTIVE)
    modules = [importlib.import_module(f"{__package__}.{name}") for name in names]
    methods = [value for module in modules for value in vars(module).values() if isinstance(value, Method)]
    return sorted(methods, key=lambda method: (method.is_baseline, method.paper is None, method.paper))


METHODS: Mapping[str, Method] = MappingProxyType({method.loss_type: method for method in _find()})
"""What can be said of a loss, by the name in `loss_type`; of TRL's losses, those that papers on self-play name."""

LOSS_TYPES: Mapping[str, Objective[Any]] = MappingProxyType(
    {name: method for name, method in METHODS.items() if isinstance(method, Objective)}
)
"""By the name in `loss_type`."""

OURS = frozenset(name for name, found in LOSS_TYPES.items() if not found.by_trl)
"""Those that TRL does not have."""

REFERENCE_FREE = frozenset(name for name, found in LOSS_TYPES.items() if not found.needs_opponent) | {"sft"}
"""Those that need no opponent's log-probabilities, TRL's `sft` among them."""

_OWN = tuple(dict.fromkeys(type(LOSS_TYPES[name].published) for name in LOSS_TYPES if name in OURS))

OWN_SETTINGS = tuple(known.name for settings in _OWN for known in fields(settings))
"""Settings of `SPINConfig` that have a meaning for objectives of ours only."""

# A dataclass takes the fields of its last base first. A type checker can't know which modules are found: of a class that
# inherits this it still knows all other fields, and takes further ones.
ObjectiveSettings: Any = type("ObjectiveSettings", _OWN[::-1], {})


def methods_of(losses: Sequence[str]) -> list[Method]:
    """The methods that losses are; of those that TRL alone knows, their name."""
    return [METHODS.get(loss) or Method(loss, f"TRL's `{loss}`") for loss in losses]


def losses_of_trl() -> list[str]:
    """The losses that TRL computes, as it lists them; none if it lists them no more."""
    # TRL has no list of its losses but in the help of the setting.
    return re.findall(r"`'(\w+)'`", DPOConfig.__dataclass_fields__["loss_type"].metadata.get("help", ""))


def check_losses(losses: Iterable[str]) -> None:
    """Raise if there is no such loss: a trainer would say so when it computes the first one, after hours of generation.

    Raises:
        RecipeError: a loss is neither ours nor named by TRL; the nearest name is given.
    """
    theirs = losses_of_trl()
    known = sorted({*OURS, *theirs})
    guesses = {guess: method.loss_type for method in METHODS.values() for guess in method.guesses}
    for loss in losses:
        if theirs and loss not in known:
            meant = nearest(guesses.get(loss.lower(), loss), known)
            raise RecipeError(f"There is no `loss_type` {loss!r}{meant} Known are {', '.join(known)}.")


def use_beta(losses: Iterable[str]) -> bool:
    """Whether one of these losses looks at `beta`: all of TRL's do, but `sft`."""
    return not OURS.issuperset(set(losses) - {"sft"})


def meaningless(losses: Iterable[str]) -> dict[str, Any]:
    """Settings of DPO's losses that have no meaning for these losses, and what they are when they are off."""
    ours = {"ld_alpha": None, "use_weighting": False, "f_divergence_type": "reverse_kl"}
    of_scale = () if use_beta(losses) else ("beta", "label_smoothing")
    return (ours if OURS & set(losses) else {}) | {name: getattr(DPOConfig, name) for name in of_scale}


def own_settings(losses: Iterable[str]) -> set[str]:
    """The names of the settings that belong to these losses."""
    return {name for loss in losses if loss in OURS for name in vars(LOSS_TYPES[loss].published)}


def objectives_of(
    losses: Iterable[str], given: Mapping[str, Any], num_generations: int
) -> list[tuple[Objective[Any], Any]]:
    """Those of the losses that are ours, each with its settings, as given or else as published.

    Args:
        losses: names of losses, TRL's among them.
        given: settings by name, None for those that were left out.
        num_generations: generated responses per prompt.

    Raises:
        RecipeError: a setting belongs to none of the losses, or is out of range.
    """
    own = own_settings(losses)
    for name, value in given.items():
        if value is not None and name not in own:
            owners = [loss for loss, found in LOSS_TYPES.items() if name in vars(found.published)]
            raise RecipeError(
                f"`{name}` has no meaning for {_quoted(losses)}: it belongs to {_quoted(owners)}. Leave it out, or choose "
                "that `loss_type`."
            )
    return [(LOSS_TYPES[loss], LOSS_TYPES[loss].resolve(given, num_generations)) for loss in losses if loss in OURS]


def values_at(
    chosen: Iterable[tuple[Objective[Any], Any]], iteration: int, num_iterations: int, gap: float | None
) -> dict[str, Any]:
    """The settings of objectives, with one number for those that go from iteration to iteration.

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
    """The settings of these losses as they were published, at iteration 0, with one generated response per prompt."""
    return values_at(objectives_of(losses, {}, 1), 0, 1, None)


def proto_in_words(losses: Iterable[str] = LOSS_TYPES) -> tuple[str, str]:
    """Those of the losses that take θ_0's responses, and the settings without which they do not, for messages."""
    takers = [LOSS_TYPES[loss] for loss in losses if loss in OURS and LOSS_TYPES[loss].needs_proto]
    off = [f"`{name}: {value:g}`" for taker in takers for name, value in taker.without_proto.items()]
    return " or ".join(f"`{taker.loss_type}`" for taker in takers), " or ".join(off)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
