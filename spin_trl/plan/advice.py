"""What to change so that a run fits: one setting after the other, each planned anew, until it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import SpinError
from .memory import MemoryPlan, Phase
from .planning import Plan, again
from .sharding import Sharding

WORTHWHILE = 0.97
"""Of the peak before, what a change must leave at most to be kept."""

ROWS_MATTER = 0.15
"""Share of a phase's peak that rows must take for fewer of them to be tried."""

MOST_GPUS = 8
"""That are tried."""


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
            changed = again(plan, changes | more)
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
    args = setup.args
    size = args.per_device_train_batch_size
    trains, answers = phase.name in ("train", "baseline", "start"), phase.name in ("generate", "evaluate")
    # Fewer rows at once help as long as rows are what takes the room.
    by_rows = (
        sum(phase.parts.get(part, 0) for part in ("activations", "logits", "KV cache")) > ROWS_MATTER * phase.total
    )
    if trains and not setup.checkpointing:
        yield {"activation_checkpointing": True}, "training a third longer"
    if answers and by_rows and args.generation_batch_size > 1:
        yield {"generation_batch_size": args.generation_batch_size // 2}, "slower generation"
    if phase.name == "evaluate" and by_rows and args.per_device_eval_batch_size > 1:
        yield {"per_device_eval_batch_size": args.per_device_eval_batch_size // 2}, "slower evaluation"
    if phase.name == "opponent's pass" and by_rows and setup.opponent_batch > 1:
        yield {"precompute_ref_batch_size": setup.opponent_batch // 2}, "a little time"
    if trains and by_rows and size > 1:
        smaller = {
            "per_device_train_batch_size": size // 2,
            "gradient_accumulation_steps": args.gradient_accumulation_steps * size // (size // 2),
        }
        yield smaller, "nothing but a little time"
    if trains and setup.peft is None and "8bit" not in setup.optim and not setup.sharding.is_sharded:
        eight = "rmsprop_bnb_8bit" if setup.optim.startswith("rmsprop") else "paged_adamw_8bit"
        yield {"optim": eight}, "states of the optimiser in 8 bits"
    if setup.peft is None and not setup.is_from_scratch:
        adapter = {"use_peft": True, "lora_r": 16, "lora_target_modules": ["all-linear"]}
        yield adapter, "an adapter instead of all weights; a larger learning rate"
    if setup.dtype.itemsize == 4 and setup.peft is not None:
        yield {"dtype": "float16" if setup.precision == "fp16" else "bfloat16"}, "frozen weights in half precision"
    if setup.quantization is None and setup.peft is not None:
        yield {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "weights in 4 bits, slower steps"
    if args.max_length is not None and args.max_length >= 256:
        yield {"max_length": args.max_length // 2}, "longer rows are cut or left out"


def _more_gpus(plan: Plan, limit: float) -> Advice | None:
    """ZeRO-3 on as few GPUs as are enough for what is not answered or measured: that needs whole replicas."""
    setup = plan.setup
    if not setup.on_gpu or setup.quantization is not None:
        return None
    if any(phase.total > limit for phase in plan.phases if phase.name in ("generate", "evaluate", "start")):
        return None
    count = max(2, setup.num_processes * (2 if setup.sharding.kind == "ZeRO-3" else 1))
    while count <= MOST_GPUS:
        trained = again(plan, {}, Sharding("ZeRO-3", count)).phases(only={"train", "opponent's pass", "baseline"})
        rest = [phase for phase in plan.phases if phase.name in ("generate", "evaluate")]
        peak = max(phase.total for phase in [*trained, *rest])
        if peak <= limit:
            return Advice(("accelerate_config",), f"accelerate_config: zero3, on {count} GPUs", "", peak, True)
        count *= 2
    return None


def _change_in_words(change: dict[str, Any]) -> str:
    def said(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)

    return ", ".join(f"{name}: {said(value)}" for name, value in change.items())
