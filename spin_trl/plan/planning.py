"""A recipe's plan: memory, hours and disk on one kind of device, whether it fits, and what to change if it does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..config.arguments import options_of
from ..config.engines import TRANSFORMERS
from ..config.recipe import Recipe
from ..config.server import SERVER
from ..config.shipped import read_accelerate_config
from ..config.yaml_files import read_yaml
from ..errors import RecipeError, SpinError
from ..generation.vllm.choice import EngineChoice
from ..run.recipe import read_recipe
from ..run.recipe_file import find_recipe
from ..run.trust import run_of_recipe, without_code
from .costs import Hours, Work, plan_disk
from .devices import Device, Speed, speed_of
from .engine import Here, settle_planned_engine
from .memory import MemoryPlan, Phase
from .server_rate import ServerRate, measured_rate, stated_rate
from .setup import Setup, Sharding, read_sharding
from .tokens import Lengths, read_lengths

WORTHWHILE = 0.97
"""Maximum ratio of the new peak to the old one for a change to be worth suggesting."""

ROWS_MATTER = 0.15
"""Minimum share of a phase's peak taken by rows for smaller batches to be tried."""

WHOLE = ("start", "generate", "start's pass", "evaluate")
"""Phases in which every process holds a whole replica of the model."""

NOWHERE = Here()
"""Of a plan without a run directory."""

MOST_GPUS = 8
"""Largest number of GPUs that is tried."""


@dataclass(frozen=True)
class Wishes:
    """What the user specifies in addition to the recipe.

    Attributes:
        num_gpus: number of GPUs; overrides the number of processes in `accelerate_config`.
        rows, prompt_tokens, response_tokens: number of rows, and mean tokens per prompt and response, for data that is not
            available locally.
        training_tokens, generation_tokens: measured tokens per second on one device, if known. With `engine: server`, the
            latter is that of all servers together.
    """

    num_gpus: int | None = None
    rows: int | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    training_tokens: float | None = None
    generation_tokens: float | None = None


class Plan:
    """The memory, time and disk that a run needs.

    Args:
        source: recipe, as passed to `spin-trl run`.
        overrides: settings that override the recipe, as command-line arguments.
        wishes: what the user specifies in addition.
        memory: memory plan of the run.
        here: what is known of the run where the plan is made.
        choice: what `engine: auto` has chosen, if it had to choose.

    Attributes:
        setup: setup of the run.
        lengths: lengths of its prompts and responses.
        phases: phases with their peaks on one device.
        longest: the same with all responses at their maximum length.
        peak: phase with the highest peak.
        worst: phase with the highest peak if all responses have their maximum length.
    """

    def __init__(
        self,
        source: str,
        overrides: Sequence[str],
        wishes: Wishes,
        memory: MemoryPlan,
        here: Here = NOWHERE,
        choice: EngineChoice | None = None,
    ) -> None:
        self.here, self.choice = here, choice
        self.source, self.overrides, self.wishes, self.memory = source, overrides, wishes, memory
        self.setup, self.lengths = memory.setup, memory.lengths
        self.phases = memory.phases()
        # If nothing was counted, the plan already assumes the longest responses.
        self.longest = memory.phases(longest=True) if self.lengths.is_counted else self.phases
        self.peak: Phase = max(self.phases, key=lambda phase: phase.total)
        self.worst: Phase = max(self.longest, key=lambda phase: phase.total)
        self._hours = Hours(memory)

    def fits(self, device: Device) -> bool:
        """Return whether the peak fits a device."""
        return self.peak.total <= device.memory * 2**30

    def fits_surely(self, device: Device) -> bool:
        """Return whether the peak fits a device however long the responses are."""
        return self.worst.total <= device.memory * 2**30

    def obstacle(self, device: Device) -> str | None:
        """Return why a device can't run the recipe regardless of memory, or None if it can."""
        changes = ["`bf16: false` and `fp16: true`"] * bool(self.setup.args.bf16)
        changes += ["`dtype: float16`"] * (self.setup.dtype is torch.bfloat16)
        if device.has_bf16 or not changes:
            return None
        return f"{device.name} does not support bfloat16: set {', and '.join(changes)}."

    def smaller_rows(self, phase: Phase) -> list[str]:
        """Return the settings that reduce how much of a phase's rows is in memory at once."""
        of_phase = {
            "generate": ["generation_batch_size", "max_new_tokens"],
            "evaluate": ["per_device_eval_batch_size", "generation_batch_size", "max_new_tokens"],
            "opponent's pass": ["precompute_ref_batch_size", "max_new_tokens"],
            "start": ["start_batch_size", "max_length"],
            "baseline": ["per_device_train_batch_size", "max_length"],
            "dpo": ["dpo_per_device_train_batch_size", "dpo_max_length"],
        }
        found = of_phase.get(phase.name, ["per_device_train_batch_size", "max_new_tokens"])
        if self.setup.asks_servers and phase.name == "generate":  # log-probs of real responses are compared
            found = ["precompute_ref_batch_size", "max_length"]
        return [name for name in found if name != "generation_batch_size" or self.setup.in_batches]

    def speed(self, device: Device) -> Speed:
        """Return the device's speed on this run."""
        rate = self.rate(device)
        own = self._own_speed(device, generates=rate is None)
        return dataclasses.replace(own, served_tokens=None if rate is None else rate.tokens)

    def _own_speed(self, device: Device, *, generates: bool = False) -> Speed:
        given = self.wishes.training_tokens, self.wishes.generation_tokens
        return speed_of(device, self.setup, self.memory.replica, *given, generates=generates)

    def rate(self, device: Device) -> ServerRate | None:
        """Return the rate at which servers generate, measured if it is known; None with another engine, and for servers that
        exist already if it is not known."""
        if self.setup.asks_servers:  # whatever device trains
            return measured_rate(self.here.run, None, SERVER)
        if self.memory.server is None:
            return None
        return measured_rate(self.here.run, device) or stated_rate(self.memory, device, self._own_speed(device))

    def work(self, device: Device) -> list[Work]:
        """Return the work of every stage, with one such device per process."""
        return self._hours.work(self.speed(device))

    def disk(self, work: list[Work]) -> dict[str, int]:
        """Return the bytes on disk by kind."""
        merged = 0 if self.memory.server is None else self.memory.server.merged
        return plan_disk(self.memory, work) | ({"the merged model, while it is served": merged} if merged else {})


def make_plan(
    source: str,
    overrides: Sequence[str],
    wishes: Wishes,
    *,
    on_gpu: bool,
    here: Here = NOWHERE,
    device: Device | None = None,
) -> Plan:
    """Plan a recipe.

    Args:
        source: recipe, as passed to `spin-trl run`.
        overrides: settings that override the recipe, as command-line arguments.
        wishes: what the user specifies in addition.
        on_gpu: whether to plan for GPUs.
        here: what is known of the run where the plan is made.
        device: device whose memory `generation_batch_size: auto` adapts to; None: its default is assumed.

    Raises:
        RecipeError, DataError, PlanError: if the recipe, its data or its model can't be planned; the message says why.
    """
    recipe = planned_recipe(source, overrides)
    if wishes.num_gpus is not None and wishes.num_gpus < 1:
        raise RecipeError(f"`--num_gpus` is {wishes.num_gpus}; it must be at least 1.")
    config = recipe.play.accelerate_config
    sharding = read_sharding(read_accelerate_config(config) if config else None, wishes.num_gpus)
    lengths = read_lengths(recipe, num_rows=wishes.rows).with_means(wishes.prompt_tokens, wishes.response_tokens)
    size = None if device is None else device.memory * 2**30
    memory, choice = _memory(recipe, sharding, lengths, here, size, on_gpu=on_gpu)
    return Plan(source, overrides, wishes, memory, here, choice)


def _again(plan: Plan, changes: dict[str, Any], sharding: Sharding | None = None) -> MemoryPlan:
    """Plan the memory of the same run with other settings or other processes.

    Raises:
        RecipeError: if the settings conflict.
    """
    overrides = list(plan.overrides)
    for name, value in changes.items():
        overrides += [f"--{name}", *(_plain(one) for one in (value if isinstance(value, list) else [value]))]
    recipe = planned_recipe(plan.source, overrides)
    lengths, max_length = plan.lengths, recipe.args.max_length
    if max_length != plan.setup.args.max_length:
        lengths = lengths.cut_to(max_length)
    size = plan.memory.device_bytes
    return _memory(recipe, sharding or plan.setup.sharding, lengths, plan.here, size, on_gpu=plan.setup.on_gpu)[0]


def _memory(
    recipe: Recipe, sharding: Sharding, lengths: Lengths, here: Here, size: float | None, *, on_gpu: bool
) -> tuple[MemoryPlan, EngineChoice | None]:
    """Plan the memory of a run. Return also what `engine: auto` has chosen, if it had to choose."""
    vocabulary = len(lengths.tokenizer) if lengths.tokenizer is not None else None
    setup = Setup(recipe, sharding, on_gpu=on_gpu, vocab_size=vocabulary)
    choice = settle_planned_engine(setup, here)
    return MemoryPlan(setup, lengths, size), choice


def planned_recipe(source: str, overrides: Sequence[str]) -> Recipe:
    """Read a recipe, on any machine, and set how its model is loaded."""
    # Without `use_cpu`, a recipe for GPUs is refused on a machine without one.
    recipe = read_recipe(source, [*overrides, "--use_cpu", "true"])
    if run_of_recipe(recipe.file) is not None:
        without_code(recipe)
    recipe.load_as_set()
    return recipe


def uses_cpu(source: str, overrides: Sequence[str]) -> bool:
    """Return whether a recipe itself sets that it runs on a CPU."""
    try:
        value = str(read_yaml(find_recipe(source)).get("use_cpu", False))
    except RecipeError:
        return False  # reported when the recipe is read
    for option in options_of(overrides):
        if option.name == "use_cpu":
            value = "".join(option.values[:1])
    return value.lower() in ("true", "yes", "1", "")


@dataclass(frozen=True)
class Advice:
    """A suggested change, on top of those before it.

    Attributes:
        settings: names of the settings.
        change: settings with their values, as in a recipe.
        costs: price of the change, in words.
        peak: bytes at the peak after the change.
        fits: whether the run fits after the change.
    """

    settings: tuple[str, ...]
    change: str
    costs: str
    peak: int
    fits: bool


def advise(plan: Plan, limit: float) -> tuple[list[Advice], Advice | None]:
    """Find changes that make a run fit, the cheapest first.

    Args:
        plan: plan of the unchanged run.
        limit: available bytes.

    Returns:
        The changes, each on top of those before it; and more GPUs as an alternative to all of them, if that is enough.
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
            # Only phases that do not fit yet are planned again: the changes do not make the others larger.
            larger = {phase.name for phase in sizes.values() if phase.total > limit}
            after = {phase.name: phase for phase in changed.phases(only=larger)}
        except SpinError:  # conflicting settings
            continue
        if after[largest.name].total > WORTHWHILE * largest.total:
            continue
        changes, memory, sizes = changes | more, changed, sizes | after
        peak = max(phase.total for phase in sizes.values())
        if found and found[-1].settings == tuple(more):
            found.pop()  # the same setting, taken further
        found.append(Advice(tuple(more), _change_in_words(more), costs, peak, peak <= limit))
    return found, _more_gpus(plan, limit)


def _changes(memory: MemoryPlan, phase: Phase) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield changes that make a phase smaller, the cheapest first; each is used to its limit before the next one."""
    setup = memory.setup
    args, peft = setup.args, setup.peft
    size = args.per_device_train_batch_size
    trains, answers = phase.name in ("train", "baseline", "start", "dpo"), phase.name in ("generate", "evaluate")
    # Smaller batches help only while rows dominate the peak.
    rows = sum(phase.parts.get(part, 0) for part in ("activations", "logits", "KV cache"))
    by_rows = rows > ROWS_MATTER * phase.total
    if trains and not setup.checkpointing:
        yield {"activation_checkpointing": True}, "training takes a third longer"
    scores = phase.name in ("start's pass", "opponent's pass") or (phase.name == "generate" and setup.asks_servers)
    for is_run, name, now, costs in (
        (answers and setup.in_batches, "generation_batch_size", memory.batch_size, "slower generation"),
        (phase.name == "evaluate", "per_device_eval_batch_size", args.per_device_eval_batch_size, "slower evaluation"),
        (scores, "precompute_ref_batch_size", setup.opponent_batch, "a little time"),
    ):
        if is_run and by_rows and now > 1:
            yield {name: now // 2}, costs
    if trains and by_rows and size > 1:
        steps = args.gradient_accumulation_steps * size // (size // 2)
        smaller = {"per_device_train_batch_size": size // 2, "gradient_accumulation_steps": steps}
        yield smaller, "a little time"
    if trains and peft is None and "8bit" not in setup.optim and not setup.sharding.is_sharded:
        eight = "rmsprop_bnb_8bit" if setup.optim.startswith("rmsprop") else "paged_adamw_8bit"
        yield {"optim": eight}, "8-bit optimiser states"
    if peft is None and not setup.is_from_scratch:
        adapter = {"use_peft": True, "lora_r": 16, "lora_target_modules": ["all-linear"]}
        yield adapter, "trains an adapter instead of all weights; needs a larger learning rate"
    if setup.dtype.itemsize == 4 and peft is not None:
        yield {"dtype": "float16" if setup.precision == "fp16" else "bfloat16"}, "frozen weights in half precision"
    if setup.quantization is None and peft is not None:
        # Other ways to generate would not do so with these weights.
        more: dict[str, Any] = {} if args.engine == TRANSFORMERS else {"engine": TRANSFORMERS}
        more |= {"generation_continuous": False} if setup.is_continuous else {}
        yield {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", **more}, "4-bit weights, slower steps"
    if args.max_length is not None and args.max_length >= 256:
        yield {"max_length": args.max_length // 2}, "longer rows are truncated or left out"


def _more_gpus(plan: Plan, limit: float) -> Advice | None:
    """Return ZeRO-3 on the fewest GPUs that fit training, or None; generation and evaluation need whole replicas anyway."""
    setup = plan.setup
    whole = [phase for phase in plan.phases if phase.name in WHOLE]
    if not setup.on_gpu or setup.quantization is not None or any(phase.total > limit for phase in whole):
        return None
    count = max(2, setup.num_processes * (2 if setup.sharding.kind == "ZeRO-3" else 1))
    while count <= MOST_GPUS:
        trained = _again(plan, {}, Sharding("ZeRO-3", count)).phases(
            only={"train", "opponent's pass", "baseline", "dpo"}
        )
        peak = max(phase.total for phase in [*trained, *whole] if phase.name != "start")
        if peak <= limit:
            return Advice(("accelerate_config",), f"accelerate_config: zero3, on {count} GPUs", "", peak, True)
        count *= 2
    return None


def _change_in_words(change: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {_plain(value)}" for name, value in change.items())


def _plain(value: Any) -> str:
    """Format a value as in a recipe."""
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
