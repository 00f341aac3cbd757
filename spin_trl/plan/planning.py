"""A recipe's plan: memory, hours and disk on one kind of device, whether it fits, and what to change so that it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..config.arguments import options_of
from ..config.recipe import Recipe
from ..config.shipped import read_accelerate_config
from ..config.yaml_files import read_yaml
from ..errors import RecipeError, SpinError
from ..run.recipe import find_recipe, read_recipe
from ..run.trust import run_of_recipe, without_code
from .costs import Hours, Work, plan_disk
from .devices import Device, Speed, speed_of
from .memory import MemoryPlan, Phase
from .setup import Setup, Sharding, read_sharding
from .tokens import Lengths, read_lengths

WORTHWHILE = 0.97
"""Of the peak before, what a change must leave at most to be kept."""

ROWS_MATTER = 0.15
"""Share of a phase's peak that rows must take for fewer of them to be tried."""

MOST_GPUS = 8
"""That are tried."""


@dataclass(frozen=True)
class Wishes:
    """What a user says besides the recipe.

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


class Plan:
    """What a run takes.

    Args:
        source: recipe, as `spin-trl run` takes it.
        overrides: of its settings, as command-line arguments.
        wishes: what the user says besides it.
        memory: which plans it.

    Attributes:
        setup: of the run.
        lengths: of its prompts and responses.
        phases: with their peaks on one device.
        longest: the same where all responses are as long as they may be.
        peak: the phase that needs most.
        most: bytes at the peak, where responses are as long as they may be.
    """

    def __init__(self, source: str, overrides: Sequence[str], wishes: Wishes, memory: MemoryPlan) -> None:
        self.source, self.overrides, self.wishes, self.memory = source, overrides, wishes, memory
        self.setup, self.lengths = memory.setup, memory.lengths
        self.phases = memory.phases()
        # Where nothing was counted, the longest responses are planned for anyway.
        self.longest = memory.phases(longest=True) if self.lengths.is_counted else self.phases
        self.peak: Phase = max(self.phases, key=lambda phase: phase.total)
        self.most = max(phase.total for phase in self.longest)
        self._hours = Hours(memory)

    def fits(self, device: Device) -> bool:
        """Whether a device holds the peak."""
        return self.peak.total <= device.memory * 2**30

    def fits_surely(self, device: Device) -> bool:
        """Whether it does whatever the responses."""
        return self.most <= device.memory * 2**30

    def obstacle(self, device: Device) -> str | None:
        """Why a device can't run the recipe whatever its memory, or None."""
        changes = ["`bf16: false` and `fp16: true`"] * bool(self.setup.args.bf16)
        changes += ["`dtype: float16`"] * (self.setup.dtype is torch.bfloat16)
        if device.has_bf16 or not changes:
            return None
        return f"{device.name} has no bfloat16: set {', and '.join(changes)}."

    def speed(self, device: Device) -> Speed:
        """How fast the device works on it."""
        wishes = self.wishes
        return speed_of(device, self.setup, self.memory.replica, wishes.training_tokens, wishes.generation_tokens)

    def work(self, device: Device) -> list[Work]:
        """What every stage takes on as many such devices as there are processes."""
        return self._hours.work(self.speed(device))

    def disk(self, work: list[Work]) -> dict[str, int]:
        """Bytes by kind."""
        return plan_disk(self.memory, work)


def make_plan(source: str, overrides: Sequence[str], wishes: Wishes, *, on_gpu: bool) -> Plan:
    """Plan a recipe.

    Args:
        source: recipe, as `spin-trl run` takes it.
        overrides: of its settings, as command-line arguments.
        wishes: what the user says besides it.
        on_gpu: whether it is to run on GPUs.

    Raises:
        RecipeError, DataError, PlanError: the recipe, its data or its model can't be planned; the message says why.
    """
    recipe = planned_recipe(source, overrides)
    if wishes.num_gpus is not None and wishes.num_gpus < 1:
        raise RecipeError(f"`--num_gpus` is {wishes.num_gpus}; it must be at least 1.")
    config = recipe.play.accelerate_config
    sharding = read_sharding(read_accelerate_config(config) if config else None, wishes.num_gpus)
    lengths = read_lengths(recipe, num_rows=wishes.rows).with_means(wishes.prompt_tokens, wishes.response_tokens)
    return Plan(source, overrides, wishes, _memory(recipe, sharding, lengths, on_gpu=on_gpu))


def _again(plan: Plan, changes: dict[str, Any], sharding: Sharding | None = None) -> MemoryPlan:
    """The memory of the same run with other settings, or other processes.

    Raises:
        RecipeError: the settings don't go together.
    """
    overrides = list(plan.overrides)
    for name, value in changes.items():
        overrides += [f"--{name}", *(_plain(one) for one in (value if isinstance(value, list) else [value]))]
    recipe = planned_recipe(plan.source, overrides)
    lengths, max_length = plan.lengths, recipe.args.max_length
    if max_length != plan.setup.args.max_length:
        lengths = lengths.cut_to(max_length)
    return _memory(recipe, sharding or plan.setup.sharding, lengths, on_gpu=plan.setup.on_gpu)


def _memory(recipe: Recipe, sharding: Sharding, lengths: Lengths, *, on_gpu: bool) -> MemoryPlan:
    vocabulary = len(lengths.tokenizer) if lengths.tokenizer is not None else None
    return MemoryPlan(Setup(recipe, sharding, on_gpu=on_gpu, vocab_size=vocabulary), lengths)


def planned_recipe(source: str, overrides: Sequence[str]) -> Recipe:
    """A recipe, read on whatever machine this is, with its model's settings where they are looked up."""
    recipe = read_recipe(
        source, [*overrides, "--use_cpu", "true"]
    )  # else one for GPUs is refused where there are none
    if run_of_recipe(recipe.file) is not None:
        without_code(recipe)
    recipe.load_as_set()
    return recipe


def uses_cpu(source: str, overrides: Sequence[str]) -> bool:
    """Whether a recipe says itself that it runs on a CPU."""
    try:
        value = str(read_yaml(find_recipe(source)).get("use_cpu", False))
    except RecipeError:
        return False  # whoever reads the recipe says what is wrong with it
    for option in options_of(overrides):
        if option.name == "use_cpu":
            value = "".join(option.values[:1])
    return value.lower() in ("true", "yes", "1", "")


@dataclass(frozen=True)
class Advice:
    """A change, on top of those before it.

    Attributes:
        settings: their names.
        change: the settings with their values, as in a recipe.
        costs: what is given up for it.
        peak: bytes after it.
        fits: whether that is enough.
    """

    settings: tuple[str, ...]
    change: str
    costs: str
    peak: int
    fits: bool


def advise(plan: Plan, limit: float) -> tuple[list[Advice], Advice | None]:
    """Changes that make a run fit, in the order in which they cost least.

    Args:
        plan: of the run as it is.
        limit: bytes that there are.

    Returns:
        Changes, each on top of those before it; and more GPUs instead of them, if that is enough.
    """
    found: list[Advice] = []
    changes: dict[str, Any] = {}
    sizes = {phase.name: phase for phase in plan.phases}
    memory = plan.memory
    tried: set[str] = set()
    while (largest := max(sizes.values(), key=lambda phase: phase.total)).total > limit:
        step = next((one for one in _changes(memory, largest) if _change_in_words(one[0]) not in tried), None)
        if step is None:
            break
        more, costs = step
        tried.add(_change_in_words(more))
        try:
            changed = _again(plan, changes | more)
            # What fits already does not grow.
            larger = {phase.name for phase in sizes.values() if phase.total > limit}
            after = {phase.name: phase for phase in changed.phases(only=larger)}
        except SpinError:  # settings that don't go together
            continue
        if after[largest.name].total > WORTHWHILE * largest.total:
            continue
        changes, memory, sizes = changes | more, changed, sizes | after
        peak = max(phase.total for phase in sizes.values())
        if found and found[-1].settings == tuple(more):
            found.pop()  # the same setting, further on
        found.append(Advice(tuple(more), _change_in_words(more), costs, peak, peak <= limit))
    return found, _more_gpus(plan, limit)


def _changes(memory: MemoryPlan, phase: Phase) -> Iterator[tuple[dict[str, Any], str]]:
    """Changes that make a phase smaller, the cheapest first; each as far as it goes before the next one."""
    setup = memory.setup
    args, peft = setup.args, setup.peft
    size = args.per_device_train_batch_size
    trains, answers = phase.name in ("train", "baseline", "start"), phase.name in ("generate", "evaluate")
    # Fewer rows at once help as long as rows are what takes the room.
    rows = sum(phase.parts.get(part, 0) for part in ("activations", "logits", "KV cache"))
    by_rows = rows > ROWS_MATTER * phase.total
    if trains and not setup.checkpointing:
        yield {"activation_checkpointing": True}, "training a third longer"
    for is_run, name, now, costs in (
        (answers, "generation_batch_size", args.generation_batch_size, "slower generation"),
        (phase.name == "evaluate", "per_device_eval_batch_size", args.per_device_eval_batch_size, "slower evaluation"),
        (phase.name == "opponent's pass", "precompute_ref_batch_size", setup.opponent_batch, "a little time"),
    ):
        if is_run and by_rows and now > 1:
            yield {name: now // 2}, costs
    if trains and by_rows and size > 1:
        steps = args.gradient_accumulation_steps * size // (size // 2)
        smaller = {"per_device_train_batch_size": size // 2, "gradient_accumulation_steps": steps}
        yield smaller, "nothing but a little time"
    if trains and peft is None and "8bit" not in setup.optim and not setup.sharding.is_sharded:
        eight = "rmsprop_bnb_8bit" if setup.optim.startswith("rmsprop") else "paged_adamw_8bit"
        yield {"optim": eight}, "states of the optimiser in 8 bits"
    if peft is None and not setup.is_from_scratch:
        adapter = {"use_peft": True, "lora_r": 16, "lora_target_modules": ["all-linear"]}
        yield adapter, "an adapter instead of all weights; a larger learning rate"
    if setup.dtype.itemsize == 4 and peft is not None:
        yield {"dtype": "float16" if setup.precision == "fp16" else "bfloat16"}, "frozen weights in half precision"
    if setup.quantization is None and peft is not None:
        yield {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "weights in 4 bits, slower steps"
    if args.max_length is not None and args.max_length >= 256:
        yield {"max_length": args.max_length // 2}, "longer rows are cut or left out"


def _more_gpus(plan: Plan, limit: float) -> Advice | None:
    """ZeRO-3 on as few GPUs as are enough for what is not answered or measured: that needs whole replicas."""
    setup = plan.setup
    whole = [phase for phase in plan.phases if phase.name in ("generate", "evaluate", "start")]
    if not setup.on_gpu or setup.quantization is not None or any(phase.total > limit for phase in whole):
        return None
    count = max(2, setup.num_processes * (2 if setup.sharding.kind == "ZeRO-3" else 1))
    while count <= MOST_GPUS:
        trained = _again(plan, {}, Sharding("ZeRO-3", count)).phases(only={"train", "opponent's pass", "baseline"})
        peak = max(phase.total for phase in [*trained, *whole] if phase.name != "start")
        if peak <= limit:
            return Advice(("accelerate_config",), f"accelerate_config: zero3, on {count} GPUs", "", peak, True)
        count *= 2
    return None


def _change_in_words(change: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {_plain(value)}" for name, value in change.items())


def _plain(value: Any) -> str:
    """A value as in a recipe."""
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
