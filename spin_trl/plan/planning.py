"""A recipe's plan: memory, hours and disk on one kind of device, and whether it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..config.recipe import Recipe
from ..config.shipped import read_accelerate_config
from ..errors import RecipeError
from ..run.recipe import find_recipe, read_recipe
from .devices import Device
from .disk import plan_disk
from .hours import Work, plan_hours
from .memory import MemoryPlan, Phase
from .model import PlannedModel
from .setup import Setup, for_any_machine, read_setup
from .sharding import Sharding, read_sharding
from .speed import Speed, speed_of
from .tokens import Lengths, read_lengths, with_means


@dataclass(frozen=True)
class Wishes:
    """What a user says beside the recipe.

    Attributes:
        num_gpus: instead of the number of processes in `accelerate_config`.
        rows, prompt_tokens, response_tokens: of the data, where it is not at hand: rows, and mean tokens.
        training_tokens, generation_tokens: a second on one device, where they are known.
    """

    num_gpus: int | None = None
    rows: int | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    training_tokens: float | None = None
    generation_tokens: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes:
        source, overrides: of the recipe.
        setup: of the run.
        lengths: of its prompts and responses.
        memory: which plans it.
        phases: with their peaks on one device.
        longest: the same where all responses are as long as they may be.
    """

    source: str
    overrides: Sequence[str]
    wishes: Wishes
    setup: Setup
    lengths: Lengths
    memory: MemoryPlan = field(repr=False)
    phases: Sequence[Phase]
    longest: Sequence[Phase]

    @property
    def peak(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def most(self) -> int:
        """Bytes at the peak, where responses are as long as they may be."""
        return max(phase.total for phase in self.longest)

    @property
    def model(self) -> PlannedModel:
        return self.memory.policy

    def fits(self, device: Device) -> bool:
        """Whether a device holds the peak."""
        return self.peak.total <= device.memory * 2**30

    def fits_surely(self, device: Device) -> bool:
        """Whether it does whatever the responses."""
        return self.most <= device.memory * 2**30

    def obstacle(self, device: Device) -> str | None:
        """Why a device can't run the recipe whatever its memory, or None."""
        if device.has_bf16:
            return None
        if self.setup.args.bf16:
            return f"{device.name} has no bfloat16: set `bf16: false` and `fp16: true`" + (
                ", and `dtype: float16`." if str(self.setup.dtype) == "torch.bfloat16" else "."
            )
        if str(self.setup.dtype) == "torch.bfloat16":
            return f"{device.name} has no bfloat16: set `dtype: float16`."
        return None

    def speed(self, device: Device) -> Speed:
        """How fast the device works on it."""
        wishes = self.wishes
        return speed_of(device, self.setup, self.memory.replica, wishes.training_tokens, wishes.generation_tokens)

    def work(self, device: Device) -> list[Work]:
        """What every stage takes on as many such devices as there are processes."""
        return plan_hours(self.setup, self.lengths, self.memory, self.speed(device))

    def disk(self, work: list[Work]) -> dict[str, int]:
        """Bytes by kind."""
        return plan_disk(self.setup, self.lengths, self.memory, work)


def make_plan(source: str, overrides: Sequence[str], wishes: Wishes, *, on_gpu: bool) -> Plan:
    """Plan a recipe.

    Args:
        source: recipe, as `spin-trl run` takes it.
        overrides: of its settings, as command-line arguments.
        wishes: what the user says beside it.
        on_gpu: whether it is to run on GPUs.

    Raises:
        RecipeError, DataError, PlanError: the recipe, its data or its model can't be planned; the message says why.
    """
    recipe = planned_recipe(source, overrides)
    sharding = _sharding(recipe, wishes.num_gpus)
    lengths = with_means(read_lengths(recipe, num_rows=wishes.rows), wishes.prompt_tokens, wishes.response_tokens)
    setup = _setup(recipe, sharding, lengths, on_gpu=on_gpu)
    memory = MemoryPlan(setup, lengths)
    phases = memory.phases()
    # Where nothing was counted, the longest responses are planned for anyway.
    longest = memory.phases(longest=True) if lengths.is_counted else phases
    return Plan(source, overrides, wishes, setup, lengths, memory, phases, longest)


def again(plan: Plan, changes: dict[str, Any], sharding: Sharding | None = None) -> MemoryPlan:
    """The memory of the same run with other settings, or other processes.

    Raises:
        RecipeError: the settings don't go together.
    """
    more = [part for name, value in changes.items() for part in (f"--{name}", *_as_arguments(value))]
    recipe = planned_recipe(plan.source, [*plan.overrides, *more])
    lengths = plan.lengths
    if recipe.args.max_length != plan.setup.args.max_length:
        lengths = dataclasses.replace(
            lengths, sampling=dataclasses.replace(lengths.sampling, max_length=recipe.args.max_length)
        )
        fitting = [row for row in lengths.rows if row[0] < (recipe.args.max_length or row[0] + 1)]
        lengths = dataclasses.replace(lengths, rows=fitting or lengths.rows[:1])
    setup = _setup(recipe, sharding or plan.setup.sharding, lengths, on_gpu=plan.setup.on_gpu)
    return MemoryPlan(setup, lengths)


def planned_recipe(source: str, overrides: Sequence[str]) -> Recipe:
    """A recipe, read on whatever machine this is, with its model's settings where they are looked up."""
    recipe = read_recipe(source, for_any_machine(overrides))
    recipe.load_as_set()
    return recipe


def uses_cpu(source: str, overrides: Sequence[str]) -> bool:
    """Whether a recipe says itself that it runs on a CPU."""
    try:
        settings = yaml.safe_load(find_recipe(source).read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeError):
        return False  # whoever reads the recipe says what is wrong with it
    said = str(settings.get("use_cpu", False)) if isinstance(settings, dict) else "false"
    for name, value in zip(overrides, [*overrides[1:], ""], strict=False):
        if name.partition("=")[0] == "--use_cpu":
            said = name.partition("=")[2] or value
    return said.lower() in ("true", "yes", "1", "") or said.startswith("--")


def _sharding(recipe: Recipe, num_gpus: int | None) -> Sharding:
    if num_gpus is not None and num_gpus < 1:
        raise RecipeError(f"`--num_gpus` is {num_gpus}; it must be at least 1.")
    config = recipe.play.accelerate_config
    return read_sharding(read_accelerate_config(config) if config else None, num_gpus)


def _setup(recipe: Recipe, sharding: Sharding, lengths: Lengths, *, on_gpu: bool) -> Setup:
    vocabulary = len(lengths.tokenizer) if lengths.tokenizer is not None else None
    return read_setup(recipe, sharding, on_gpu=on_gpu, vocab_size=vocabulary)


def _as_arguments(value: Any) -> list[str]:
    if isinstance(value, bool):
        return [str(value).lower()]
    return [str(part) for part in value] if isinstance(value, list) else [str(value)]
