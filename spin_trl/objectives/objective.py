"""The classes that describe an objective, for users, the settings and the trainer.

An objective is a constant in a module of this folder, where `registry.py` finds it. The rest of the package asks an
objective what it needs, and never which one it is.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, get_args, get_type_hints

import torch

from ..errors import RecipeError
from .base import logratios

POLICY = ("policy_real_logps", "policy_generated_logps")
OPPONENT = ("opponent_real_logps", "opponent_generated_logps")
PROTO = ("policy_proto_logps",)
LOGRATIOS = ("real_logratios", "generated_logratios")
LENGTHS = ("real_lengths", "generated_lengths")

Tensors = Mapping[str, torch.Tensor | None]
"""Tensors of a batch by the names above, each of shape `(batch,)`; None for those the batch does not have. Log-ratios may be
left out if the four log-probabilities that they are computed from are there."""

NUM_GENERATIONS: Any = "num_generations"
"""Placeholder among published values: the number of generated responses per prompt."""

OwnSettings = TypeVar("OwnSettings")


def logratios_of(tensors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return r and r' by name, for a batch that has the four log-probabilities."""
    return dict(zip(LOGRATIOS, logratios(*(tensors[name] for name in POLICY + OPPONENT)), strict=True))


@dataclass(frozen=True)
class Method:
    """The description of a loss that `loss_type` can name.

    Attributes:
        loss_type: name in a recipe.
        name: name of the method.
        equation: loss of a pair, as TeX; empty if it is not ours to state.
        paper: arXiv number, or None.
        note: anything else that a reader needs to know.
        is_baseline: whether the method's paper is not about self-play; such methods are listed after the others.
        guesses: other names that users may try.
    """

    loss_type: str
    name: str
    equation: str = ""
    paper: str | None = None
    note: str = ""
    is_baseline: bool = False
    guesses: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Objective(Method, Generic[OwnSettings]):
    """A loss that this package computes, in training or, if TRL does that (`by_trl`), only for measurements.

    The function's signature declares what it needs: its positional arguments are tensors, under the names above; its keyword
    arguments are settings without their prefix: `tspin_alpha` is T-SPIN's `alpha`.

    Attributes:
        function: returns one loss per pair, or one for the batch.
        published: settings with their published values, which apply when they are left out. `SPINConfig` inherits the
            fields of this dataclass, with default None.
        least: lower bounds of settings that need not be positive.
        couples_pairs: whether the loss is a function of all pairs of an optimiser step; it then takes only log-ratios.
        figures: function that computes figures to log with the loss: takes what `function` takes, returns numbers by name.
        by_trl: whether TRL computes the loss in training.
        without_proto: settings that apply when there are no proto responses, as at iteration 0.
    """

    function: Callable[..., torch.Tensor]
    published: OwnSettings
    least: Mapping[str, float] = field(default_factory=dict)
    couples_pairs: bool = False
    figures: Callable[..., dict[str, torch.Tensor]] | None = None
    by_trl: bool = False
    without_proto: Mapping[str, float] = field(default_factory=dict)

    # ---- its inputs ------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it takes as positional arguments."""
        arguments = inspect.signature(self.function).parameters.values()
        return tuple(one.name for one in arguments if one.kind is not one.KEYWORD_ONLY)

    @property
    def needs_opponent(self) -> bool:
        """Whether it uses the opponent's log-probabilities."""
        return LOGRATIOS[0] in self.inputs

    @property
    def needs_proto(self) -> bool:
        """Whether it also uses θ_0's responses."""
        return PROTO[0] in self.inputs

    def weighs_proto(self, values: Mapping[str, Any]) -> bool:
        """Return whether it uses θ_0's responses with these settings."""
        return self.needs_proto and not (self.without_proto and self.without_proto.items() <= values.items())

    # ---- its values ------------------------------------------------------------------------------------------------------

    def __call__(self, tensors: Tensors, values: Mapping[str, Any]) -> torch.Tensor:
        """Compute the loss.

        Args:
            tensors: tensors by name, including all that it takes.
            values: settings by their names in `SPINConfig`, including all its own.
        """
        return self.function(**self._arguments(tensors, values))

    def measure(self, tensors: Tensors, values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Compute the figures to log, by name; arguments as for the loss."""
        return {} if self.figures is None else self.figures(**self._arguments(tensors, values))

    def _arguments(self, tensors: Tensors, values: Mapping[str, Any]) -> dict[str, Any]:
        if self.needs_proto and tensors[PROTO[0]] is None:
            values = {**values, **self.without_proto}
        if self.needs_opponent and LOGRATIOS[0] not in tensors:
            tensors = {**tensors, **logratios_of(tensors)}
        known = inspect.signature(self.function).parameters
        settings = {name.partition("_")[2] or name: name for name in vars(self.published)}
        return {name: tensors[name] for name in self.inputs} | {
            argument: values[name] for argument, name in settings.items() if argument in known
        }

    # ---- its settings ----------------------------------------------------------------------------------------------------

    def own(self, values: Mapping[str, Any]) -> OwnSettings:
        """Return its own settings among others; None for those left out."""
        return type(self.published)(**{name: values.get(name) for name in vars(self.published)})

    def resolve(self, given: Mapping[str, Any], num_generations: int) -> OwnSettings:
        """Return its settings: the given values, or else the published ones.

        Args:
            given: settings by name; None for those left out.
            num_generations: generated responses per prompt.

        Raises:
            RecipeError: if a value is not a number, or out of range.
        """
        usual = {n: float(num_generations) if v == NUM_GENERATIONS else v for n, v in vars(self.published).items()}
        values = {name: usual[name] if given.get(name) is None else self._typed(name, given[name]) for name in usual}
        self.check(self.own(values))
        for name, value in values.items():
            least = self.least.get(name)
            is_low = isinstance(value, float) and not (value > 0 if least is None else value >= least)
            if is_low or value in (math.inf, -math.inf):
                bound = "positive" if least is None else f"at least {least:g}"
                raise RecipeError(f"`{name}` is {value:g}; it must be {bound}.")
        return self.own(values)

    def _typed(self, name: str, value: Any) -> Any:
        """Convert a value to its setting's type: text from the command line to a number, a single number to a list."""
        kinds = get_args(get_type_hints(type(self.published))[name])
        if list[float] in kinds and isinstance(value, int | float | str):
            value = [value]
        try:
            if float in kinds:
                return float(value)
            return [float(one) for one in value] if list[float] in kinds else value
        except (TypeError, ValueError):
            raise RecipeError(f"`{name}` is {value!r}; expected a number.") from None

    # ---- settings that depend on each other, or on the iteration --------------------------------------------------------

    def check(self, settings: OwnSettings) -> None:
        """Raise RecipeError if its settings contradict each other."""

    def at(self, settings: OwnSettings, iteration: int, num_iterations: int, gap: float | None) -> dict[str, Any]:
        """Return the settings that differ between iterations, by name; a list of one number applies to every iteration.

        Args:
            settings: settings of the run.
            iteration: 0-based.
            num_iterations: number of iterations in the run.
            gap: mean log-ratio of the real responses minus that of the opponent's, on held-out prompts at the end of the
                previous iteration, in nats; None at iteration 0.
        """
        return {}

    def asks_for_gap(self, settings: OwnSettings) -> str:
        """Return the setting that makes [`Objective.at`] need the gap, as written in a recipe; empty if none does."""
        return ""

    def depends_on_length(self, settings: OwnSettings) -> bool:
        """Return whether [`Objective.at`] depends on the number of iterations, so that a longer run is a different run."""
        return False

    def against_length(self, settings: OwnSettings, num_iterations: int, is_smoke: bool) -> Sequence[str]:
        """Return why its settings don't fit this number of iterations. A smoke run has fewer than its recipe says."""
        return ()
