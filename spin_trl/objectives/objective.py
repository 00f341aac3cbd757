"""What describes an objective: for people, for the settings, and for the trainer.

An objective is a constant of a module of this folder, where `registry.py` finds it. The rest of the package asks an
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
"""Of a batch, by these names, each of shape `(batch,)`; None for those that it does not have. Log-ratios may be left out
where there are the four log-probabilities that they are made of."""

NUM_GENERATIONS: Any = "num_generations"
"""As a published value: as many as there are generated responses per prompt."""

OwnSettings = TypeVar("OwnSettings")


def logratios_of(tensors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """r and r' by their names, of a batch that has the four log-probabilities."""
    return dict(zip(LOGRATIOS, logratios(*(tensors[name] for name in POLICY + OPPONENT)), strict=True))


@dataclass(frozen=True)
class Method:
    """A loss that `loss_type` can name, for people.

    Attributes:
        loss_type: its name in a recipe.
        name: of the method.
        equation: its loss of a pair, as TeX; empty if it is not ours to state.
        paper: number on arXiv, or None.
        note: what else a reader has to know.
        is_baseline: whether its paper is not about self-play; such methods come after the others.
        guesses: names under which it is looked for.
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
    """A loss that this package computes: in training, or (`by_trl`) to measure it.

    The function says what it needs: its positional arguments are tensors, by the names that stand above; its keyword
    arguments are settings, without the prefix: `tspin_alpha` is T-SPIN's `alpha`.

    Attributes:
        function: returns one loss a pair, or one for the batch.
        published: its settings, as they are where they are left out. `SPINConfig` inherits the fields of this dataclass,
            which are None by default.
        least: of settings that need not be positive, the least value.
        couples_pairs: whether it is a function of all pairs of an optimiser step; it then takes log-ratios alone.
        figures: what is logged beside the loss: takes what `function` takes, and returns numbers by name.
        by_trl: whether TRL computes it in training.
        without_proto: settings that hold where there are no proto responses, as at iteration 0.
    """

    function: Callable[..., torch.Tensor]
    published: OwnSettings
    least: Mapping[str, float] = field(default_factory=dict)
    couples_pairs: bool = False
    figures: Callable[..., dict[str, torch.Tensor]] | None = None
    by_trl: bool = False
    without_proto: Mapping[str, float] = field(default_factory=dict)

    # ---- what it needs ---------------------------------------------------------------------------------------------------

    @functools.cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that its positional arguments are."""
        arguments = inspect.signature(self.function).parameters.values()
        return tuple(one.name for one in arguments if one.kind is not one.KEYWORD_ONLY)

    @property
    def needs_opponent(self) -> bool:
        """Whether it compares with the opponent's log-probabilities."""
        return LOGRATIOS[0] in self.inputs

    @property
    def needs_proto(self) -> bool:
        """Whether it takes θ_0's responses, too."""
        return PROTO[0] in self.inputs

    def weighs_proto(self, values: Mapping[str, Any]) -> bool:
        """Whether it takes θ_0's responses with these settings."""
        return self.needs_proto and not (self.without_proto and self.without_proto.items() <= values.items())

    # ---- what it computes ------------------------------------------------------------------------------------------------

    def __call__(self, tensors: Tensors, values: Mapping[str, Any]) -> torch.Tensor:
        """The loss.

        Args:
            tensors: at least those that it takes, by name.
            values: at least its settings, by their names in `SPINConfig`.
        """
        return self.function(**self._arguments(tensors, values))

    def measure(self, tensors: Tensors, values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The figures to log, by name; arguments as for the loss."""
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
        """Its settings among others; None for those that are left out."""
        return type(self.published)(**{name: values.get(name) for name in vars(self.published)})

    def resolve(self, given: Mapping[str, Any], num_generations: int) -> OwnSettings:
        """Its settings as given, or else as published.

        Args:
            given: by name, None for those that were left out.
            num_generations: generated responses per prompt.

        Raises:
            RecipeError: a value is no number, or out of range.
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
        """A value as the type of its setting: text from a command line becomes a number, one number a list of one."""
        kinds = get_args(get_type_hints(type(self.published))[name])
        if list[float] in kinds and isinstance(value, int | float | str):
            value = [value]
        try:
            if float in kinds:
                return float(value)
            return [float(one) for one in value] if list[float] in kinds else value
        except (TypeError, ValueError):
            raise RecipeError(f"`{name}` is {value!r}; expected a number.") from None

    # ---- for settings that depend on each other, or on the iteration ----------------------------------------------------

    def check(self, settings: OwnSettings) -> None:
        """Raise RecipeError if its settings contradict each other."""

    def at(self, settings: OwnSettings, iteration: int, num_iterations: int, gap: float | None) -> dict[str, Any]:
        """Settings that an iteration has for itself, by name; a list of one number holds in every iteration.

        Args:
            settings: of the run.
            iteration: 0-based.
            num_iterations: of the run.
            gap: mean log-ratio of the real responses less that of the opponent's, on held-out prompts at the end of the
                iteration before, in nats; None at iteration 0.
        """
        return {}

    def asks_for_gap(self, settings: OwnSettings) -> str:
        """The setting by which [`Objective.at`] needs the gap, as a recipe has it; empty if it does without."""
        return ""

    def depends_on_length(self, settings: OwnSettings) -> bool:
        """Whether [`Objective.at`] changes with the number of iterations, so that a longer run is another run."""
        return False

    def against_length(self, settings: OwnSettings, num_iterations: int, is_smoke: bool) -> Sequence[str]:
        """What its settings can't be in a run of so many iterations; a smoke run has fewer than its recipe says."""
        return ()
