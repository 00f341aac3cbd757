"""Peak memory of every phase of a run on one device, by part.

What outlasts a step (weights, optimiser states) is arithmetic on the model's parameters; what a step takes is found by
playing it on tensors without numbers ([`rehearsal`]). Full fine-tuning keeps no second model; with an adapter the opponent
is a frozen copy of it. The shares of sharded training are those of DeepSpeed's own estimators for ZeRO-2 and ZeRO-3
(`estimate_zero2_model_states_mem_needs` and its like), and of FSDP2 with float32 weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from ..models.forward import obstacles
from .model import PlannedModel, bytes_of
from .rehearsal import Peak, prefill, scoring, supervised, training
from .setup import Setup
from .tokens import Lengths, PairLengths

PARTS = ("weights", "adapters", "gradients", "optimiser", "activations", "logits", "KV cache", "reserve")
"""Of memory, in the order in which they are shown."""

CONTEXT = 0.6 * 2**30
"""Bytes of a CUDA context with PyTorch's and cuBLAS's kernels and workspaces: 0.4 GiB on a T4 to 0.7 on an H100."""

COMMUNICATION = 0.75 * 2**30
"""Bytes of NCCL's buffers, where there are several processes."""

SLACK = 0.06
"""Of what is allocated, what PyTorch's allocator loses by cutting blocks to pieces."""

LIVE_PARAMETERS = 10**9
"""Weights that ZeRO-3 keeps gathered, at most: DeepSpeed's `stage3_max_live_parameters`."""

SAMPLING = 20
FILTERED_SAMPLING = 46
"""Bytes by entry of the logits while a token is sampled: copies in float32, probabilities, random numbers; with `top_p` or
`top_k` also the sorted logits with their indices, and sums."""


_BLOCK = 256
"""Values that share a scale in bitsandbytes' 8-bit states: a float32 each."""

_SMALLEST = 4096
"""Tensors with fewer values keep float32 states there."""


@dataclass(frozen=True)
class Phase:
    """What a phase needs on one device at its peak.

    Attributes:
        name: of the phase.
        parts: bytes by name (`PARTS`); those that are 0 are left out.
    """

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Kept:
    """What an optimiser keeps.

    Attributes:
        states: tensors of the parameter's size.
        bits: 8, or 0 for the parameter's own dtype, or 32.
        works_on_copies: whether a step on a GPU makes a copy of all states at once (PyTorch's `foreach` loops).
    """

    states: float
    bits: int = 0
    works_on_copies: bool = False


STATES_KEPT = {
    name: kept
    for kept, names in (
        (Kept(2, works_on_copies=True), "adamw_torch"),
        (Kept(2), "adamw_torch_fused adamw_apex_fused"),
        (Kept(2, 8), "adamw_8bit adamw_bnb_8bit adamw_torch_8bit paged_adamw_8bit"),
        (Kept(2, 32), "paged_adamw_32bit"),
        (Kept(3, 8), "ademamix_8bit paged_ademamix_8bit"),
        (Kept(3, 32), "ademamix paged_ademamix_32bit"),
        (Kept(1, 8), "lion_8bit paged_lion_8bit rmsprop_bnb_8bit"),
        (Kept(1, 32), "lion_32bit paged_lion_32bit rmsprop_bnb rmsprop_bnb_32bit"),
        (Kept(1, works_on_copies=True), "rmsprop adagrad"),
        (Kept(0), "sgd adafactor"),
    )
    for name in names.split()
}
"""By name in the settings."""


def kept_by(optim: str) -> Kept:
    """What an optimiser keeps; one that is not known is taken for AdamW."""
    return STATES_KEPT.get(optim, Kept(2))


def state_bytes(optim: str, parameters: Sequence[torch.Tensor], embeddings: torch.Tensor | None = None) -> int:
    """Bytes of an optimiser's states.

    Args:
        optim: as in the settings.
        parameters: that are trained.
        embeddings: those of them that Trainer lets bitsandbytes keep 32-bit states of.
    """
    kept = kept_by(optim)
    total = 0.0
    for parameter in parameters:
        count = parameter.numel()
        if optim == "adafactor":  # a row and a column of every matrix, in float32
            total += 4 * (sum(count // size for size in parameter.shape[-2:]) if parameter.dim() > 1 else count)
        elif kept.bits == 8 and count >= _SMALLEST and parameter is not embeddings:
            total += kept.states * (count + 4 * -(-count // _BLOCK))
        else:
            total += kept.states * count * (4 if kept.bits else parameter.element_size())
    return round(total)


def _step_bytes(optim: str, parameters: Sequence[torch.Tensor], *, on_gpu: bool) -> int:
    """Bytes that a step takes besides weights, gradients and states."""
    sizes = [bytes_of(parameter) for parameter in parameters]
    if not sizes or not kept_by(optim).works_on_copies:
        return 0
    return sum(sizes) if on_gpu else 2 * max(sizes)


class MemoryPlan:
    """The phases of a run, each with its peak. Models are built once, and a rehearsal is played once.

    Args:
        setup: of the run.
        lengths: of its prompts and responses.

    Attributes:
        policy: the model as training has it.
        replica: the model as generation has it.
        cache_bytes_per_token: bytes that a token of one row takes in the key-value cache.

    Raises:
        PlanError: the model can't be built, or followed.
    """

    def __init__(self, setup: Setup, lengths: Lengths) -> None:
        self.setup, self.lengths = setup, lengths
        self.policy = PlannedModel(setup.trained())
        replica = setup.loaded()
        self.replica = self.policy if replica == self.policy.settings else PlannedModel(replica)
        self.cache_bytes_per_token = prefill(self.replica, 1, 64).kept / 64
        self._answer = functools.cache(self._answer_to)

    def phases(self, *, longest: bool = False, only: Collection[str] | None = None) -> list[Phase]:
        """All phases that the run has, in the order in which they are played.

        Args:
            longest: plan for responses that are all as long as they may be.
            only: names of the phases to plan; None: all.

        Raises:
            PlanError: the model can't be followed.
        """
        setup, args = self.setup, self.setup.args
        size, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
        start = setup.recipe.start.start_batch_size
        found: dict[str, tuple[bool, Callable[[], dict[str, int]]]] = {
            "start": (setup.is_from_scratch, lambda: self._supervised(longest, start, 1)),
            "generate": (True, lambda: self._answer(self._at_once(self.lengths.num_rows * args.num_generations))),
            "opponent's pass": (setup.opponent_is_precomputed, lambda: self._opponent(longest)),
            "train": (True, lambda: self._train(longest)),
            "evaluate": (self.lengths.num_held_out > 0, lambda: self._evaluate(longest)),
            "baseline": (bool(setup.play.baseline), lambda: self._supervised(longest, size, accumulation)),
        }
        return [
            Phase(name, self._with_reserve(name, parts()))
            for name, (is_played, parts) in found.items()
            if is_played and (only is None or name in only)
        ]

    def shares_prompts(self, *, longest: bool = False) -> bool:
        """Whether training runs over unique tokens: where that is exact, unless it is not wanted."""
        if self.setup.args.shared_prefix is False or obstacles.of_model(self.policy.model) is not None:
            return False
        row = max(pair.longest for pair in self._micro_batch(1, longest=longest))
        return obstacles.of_length(self.policy.base.config, row) is None

    # ---- phases -------------------------------------------------------------------------------------------------------

    def _train(self, longest: bool) -> dict[str, int]:
        args = self.setup.args
        pairs = self._micro_batch(args.per_device_train_batch_size, longest=longest)
        play = functools.partial(training, self.policy, pairs, shared=self.shares_prompts(longest=longest))
        return self._stepped(play, args.gradient_accumulation_steps)

    def _supervised(self, longest: bool, batch_size: int, accumulation: int) -> dict[str, int]:
        rows = [pair.prompt + pair.responses[0] for pair in self._micro_batch(batch_size, longest=longest)]
        smoothings = [self.setup.recipe.start.start_label_smoothing, *self.setup.play.baseline_label_smoothing]
        play = functools.partial(supervised, self.policy, rows, smoothing=any(smoothings))
        return self._stepped(play, accumulation, frozen=False)

    def _opponent(self, longest: bool) -> dict[str, int]:
        pairs = self._micro_batch(self.setup.opponent_batch, branches=2, longest=longest)
        peak = scoring(self.policy, pairs, shared=self.shares_prompts(longest=longest))
        parts = self._static(frozen=True)
        if self.setup.sharding.kind == "FSDP":  # the opponent is loaded beside the policy, and freed
            parts["weights"] += self._sharded_weights()
        return parts | _by_part(peak)

    def _evaluate(self, longest: bool) -> dict[str, int]:
        args, count = self.setup.args, max(self.lengths.num_held_out // self.setup.num_processes, 1)
        rows = self._micro_batch(min(args.per_device_eval_batch_size, count), branches=2, longest=longest)
        alone = [PairLengths(pair.prompt, (max(pair.responses),)) for pair in rows]
        scored = self._replica() | _by_part(scoring(self.replica, alone, shared=False))
        answered = self._answer(self._at_once(self.lengths.num_held_out))
        return max(scored, answered, key=lambda parts: sum(parts.values()))

    # ---- what they are made of ----------------------------------------------------------------------------------------

    def _micro_batch(self, size: int, branches: int | None = None, *, longest: bool) -> list[PairLengths]:
        return self.lengths.micro_batch(size, branches or self.setup.branches, longest=longest)

    def _replica(self) -> dict[str, int]:
        model = self.replica
        return {"weights": model.weight_bytes, "adapters": model.adapter_bytes}

    def _at_once(self, responses: int) -> int:
        """Prompts of a micro-batch, where there are so many responses."""
        return max(min(self.setup.args.generation_batch_size, responses), 1)

    def _answer_to(self, num_prompts: int) -> dict[str, int]:
        """Answering a micro-batch: its prompts at once, or its last token, whichever takes more."""
        lengths, model, args = self.lengths, self.replica, self.setup.args
        vocabulary = model.base.get_output_embeddings().weight.size(0)
        first = prefill(model, num_prompts, lengths.longest_prompt)
        cache = round(self.cache_bytes_per_token * num_prompts * lengths.longest_answer)
        filters = args.temperature > 0 and (args.top_p < 1 or args.top_k > 0)
        logits = num_prompts * vocabulary * (FILTERED_SAMPLING if filters else SAMPLING)
        # While a row is lengthened or dropped, one layer's cache exists twice.
        at_the_end = {"KV cache": cache + cache // model.num_layers, "logits": logits}
        at_once = {"KV cache": first.kept, "activations": first.bytes - first.kept, "logits": 0}
        width = self.setup.dtype.itemsize if self.setup.precision == "no" else 2
        looked_at = lengths.longest_prompt * vocabulary * width
        alone = {"logits": looked_at, "activations": (first.bytes - first.kept) // num_prompts}
        most = max(at_the_end, at_once, alone, key=lambda parts: sum(parts.values()))
        return self._replica() | most

    def _static(self, *, frozen: bool) -> dict[str, int]:
        """Weights and adapters of training, on one device."""
        policy, setup = self.policy, self.setup
        adapters = policy.adapter_bytes
        if not frozen and setup.keeps_adapter:
            adapters //= 2
        if not setup.sharding.is_sharded:
            return {"weights": policy.weight_bytes, "adapters": adapters}
        shards = setup.num_processes if setup.sharding.shards_weights else 1
        return {"weights": self._sharded_weights() + self._gathered(), "adapters": adapters // shards}

    def _sharded_weights(self) -> int:
        """A process's share of the weights that stay between steps."""
        policy, sharding = self.policy, self.setup.sharding
        if sharding.offloads_weights:
            return 0
        if sharding.kind == "FSDP":
            return 4 * policy.num_parameters // sharding.num_processes
        return policy.weight_bytes // (sharding.num_processes if sharding.shards_weights else 1)

    def _gathered(self) -> int:
        """Whole weights that a process holds while it computes with them."""
        policy, sharding = self.policy, self.setup.sharding
        width = self.setup.trained().dtype.itemsize
        if sharding.kind == "ZeRO-3":
            return width * min(LIVE_PARAMETERS, policy.num_parameters)
        if sharding.kind == "FSDP":  # the layer that computes, the next one, and what stands outside of layers
            outside = policy.num_embeddings * (1 if policy.is_tied else 2)
            return width * (outside + 2 * (policy.num_parameters - outside) // policy.num_layers)
        return 0

    def _stepped(self, play: Callable[..., Peak], accumulation: int, *, frozen: bool = True) -> dict[str, int]:
        """Parts of an optimiser step's peak.

        Args:
            play: plays a micro-batch; takes `keep_gradients`.
            accumulation: micro-batches of the step.
            frozen: whether the frozen adapter is there.
        """
        policy, setup = self.policy, self.setup
        trained, optim = policy.trainable, setup.optim
        parts = self._static(frozen=frozen)
        if setup.sharding.is_sharded:
            return parts | self._sharded_states(optim, policy.num_trainable) | _by_part(play(keep_gradients=False))
        gradients = sum(map(bytes_of, trained))
        step = _step_bytes(optim, trained, on_gpu=setup.on_gpu)
        parts["optimiser"] = state_bytes(optim, trained, policy.base.get_input_embeddings().weight)
        if accumulation == 1 and setup.sharding.kind == "NO":
            peak = play(keep_gradients=True)
            parts["gradients"] = gradients
            others = max(peak.bytes - gradients, step, 0)
        else:
            # Gradients are there before a micro-batch begins; DDP sends them in buckets, which hold them once more.
            peak = play(keep_gradients=False)
            others = max(peak.bytes, step)
            parts["gradients"] = gradients * (2 if setup.sharding.kind == "DDP" else 1)
        return parts | _by_part(Peak(others, min(peak.head, others)))

    def _sharded_states(self, optim: str, count: int) -> dict[str, int]:
        """Gradients and optimiser of a process, with float32 weights among the latter under DeepSpeed."""
        kept, sharding = kept_by(optim), self.setup.sharding
        states = 4 + kept.states * (1 if kept.bits == 8 else 4) if sharding.kind != "FSDP" else 4 * kept.states
        optimiser = round(states * count / sharding.num_processes)
        gradients = 4 * count // sharding.num_processes
        if sharding.offloads_optimizer:
            optimiser = gradients = 0
        if sharding.kind in ("ZeRO-1", "ZeRO-2"):
            gradients += 2 * count
        return {"optimiser": optimiser, "gradients": gradients}

    def _with_reserve(self, name: str, parts: dict[str, int]) -> dict[str, int]:
        if self.setup.on_gpu:
            several = self.setup.num_processes > 1 and name in ("train", "opponent's pass", "baseline")
            reserve = CONTEXT + (COMMUNICATION if several else 0) + SLACK * sum(parts.values())
            parts = parts | {"reserve": round(reserve)}
        return {part: parts[part] for part in PARTS if parts.get(part)}


def _by_part(peak: Peak) -> dict[str, int]:
    return {"logits": peak.head, "activations": peak.bytes - peak.head}
