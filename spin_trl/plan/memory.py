"""Peak memory of every phase of a run on one device, by part.

Memory that outlasts a step (weights, optimiser states) is computed from the model's parameters; the memory of a step itself
is found by playing it on fake tensors ([`rehearsal`]). Full fine-tuning keeps no second model; with an adapter, the opponent
is a frozen copy of the adapter. For sharded training, each process's share follows DeepSpeed's own estimators for ZeRO-2
and ZeRO-3 (`estimate_zero2_model_states_mem_needs` and its ZeRO-3 counterpart), and FSDP2 with float32 weights.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from ..config.iteration import AUTO_BATCH
from ..generation.batch_size import RowMemory, bytes_per_logit
from ..models.forward import obstacles
from .model import PlannedModel, bytes_of
from .rehearsal import Peak, prefill, scoring, supervised, training
from .server_memory import server_memory
from .setup import Setup
from .tokens import Lengths, PairLengths

PARTS = ("weights", "adapters", "gradients", "optimiser", "activations", "logits", "KV cache", "reserve")
"""Parts of memory, in the order shown."""

CONTEXT = 0.6 * 2**30
"""Bytes of a CUDA context with PyTorch's and cuBLAS's kernels and workspaces: 0.4 GiB on a T4 to 0.7 on an H100."""

COMMUNICATION = 0.75 * 2**30
"""Bytes of NCCL's buffers, with several processes."""

SLACK = 0.06
"""Share of the allocated memory that PyTorch's allocator loses to fragmentation."""

LIVE_PARAMETERS = 10**9
"""Maximum number of weights that ZeRO-3 keeps gathered: DeepSpeed's `stage3_max_live_parameters`."""

_BLOCK = 256
"""Values that share one float32 scale in bitsandbytes' 8-bit states."""

_SMALLEST = 4096
"""Number of values below which a tensor keeps float32 states in bitsandbytes' 8-bit optimisers."""


@dataclass(frozen=True)
class Phase:
    """The peak memory of a phase on one device.

    Attributes:
        name: name of the phase.
        parts: bytes by part (see `PARTS`), without parts of 0 bytes.
    """

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Kept:
    """The states an optimiser keeps.

    Attributes:
        states: number of tensors of the parameter's size.
        bits: 8 or 32, or 0 for the parameter's own dtype.
        works_on_copies: whether a step on a GPU copies all states at once (PyTorch's `foreach` loops).
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
"""States by the optimiser's name in the settings."""


def kept_by(optim: str) -> Kept:
    """Return the states an optimiser keeps; an unknown one is treated as AdamW."""
    return STATES_KEPT.get(optim, Kept(2))


def state_bytes(optim: str, parameters: Sequence[torch.Tensor], embeddings: torch.Tensor | None = None) -> int:
    """Return the bytes of an optimiser's states.

    Args:
        optim: name of the optimiser, as in the settings.
        parameters: trained parameters.
        embeddings: embedding weights, for which Trainer makes bitsandbytes keep 32-bit states.
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
    """Return the bytes that an optimiser step takes in addition to weights, gradients and states."""
    sizes = [bytes_of(parameter) for parameter in parameters]
    if not sizes or not kept_by(optim).works_on_copies:
        return 0
    return sum(sizes) if on_gpu else 2 * max(sizes)


class MemoryPlan:
    """The phases of a run, each with its peak. Models are built only once, and generation is rehearsed once per batch size.

    Args:
        setup: setup of the run.
        lengths: lengths of its prompts and responses.
        device_bytes: memory of the GPU that `generation_batch_size: auto` adapts to; None: its default is assumed.

    Attributes:
        policy: model as used in training.
        replica: model as used in generation.
        cache_bytes_per_token: bytes per token of one row in the key-value cache.
        server: memory of the vLLM servers that generate; None with another engine.

    Raises:
        PlanError: if the model can't be built, or can't run on fake tensors.
    """

    def __init__(self, setup: Setup, lengths: Lengths, device_bytes: float | None = None) -> None:
        self.setup, self.lengths, self.device_bytes = setup, lengths, device_bytes
        self.policy = PlannedModel(setup.trained())
        replica = setup.loaded()
        self.replica = self.policy if replica == self.policy.settings else PlannedModel(replica)
        self.cache_bytes_per_token = prefill(self.replica, 1, 64).kept / 64
        self.server = server_memory(setup, self.replica, self.cache_bytes_per_token)
        self._answer = functools.cache(self._answer_to)

    @functools.cached_property
    def of_sft(self) -> MemoryPlan:
        """The plan of SFT first: another one if it trains another adapter than self-play, or none, or recomputes activations
        otherwise."""
        setup = self.setup.of_sft()
        is_alike = (setup.peft, setup.checkpointing) == (self.setup.peft, self.setup.checkpointing)
        return self if is_alike else MemoryPlan(setup, self.lengths, self.device_bytes)

    @functools.cached_property
    def batch_size(self) -> int:
        """Number of prompts that are answered together (`generation_batch_size`), also if memory decides."""
        args, lengths, device = self.setup.args, self.lengths, self.device_bytes
        if args.generation_batch_size != AUTO_BATCH or device is None or not self.setup.on_gpu:
            return args.answers_at_once
        one, two = (prefill(self.replica, rows, lengths.longest_prompt).bytes for rows in (1, 2))
        need = RowMemory.of_two(one, two, sum(self._at_the_end(1).values()))
        return need.largest_batch(device - CONTEXT - sum(self._replica().values()))

    def phases(self, *, longest: bool = False, only: Collection[str] | None = None) -> list[Phase]:
        """Return all phases of the run, in the order in which they are played.

        Args:
            longest: whether to plan for responses of maximum length.
            only: names of the phases to plan; None for all.

        Raises:
            PlanError: if the model can't run on fake tensors.
        """
        setup, args = self.setup, self.setup.args
        size, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
        found: dict[str, tuple[bool, Callable[[], dict[str, int]]]] = {
            "start": (setup.makes_start, lambda: self._start(longest)),
            "generate": (True, lambda: self._answer(self.at_once(self.lengths.num_rows * args.num_generations))),
            "start's pass": (setup.mixes_start, lambda: self._scored(setup.opponent_batch, longest)),
            "opponent's pass": (setup.opponent_is_precomputed, lambda: self._opponent(longest)),
            "train": (True, lambda: self._train(longest)),
            "evaluate": (self.lengths.num_held_out > 0, lambda: self._evaluate(longest)),
            "baseline": (bool(setup.play.baseline), lambda: self._supervised(longest, size, accumulation)),
            "dpo": (bool(setup.play.then_dpo) and self.lengths.preferences is not None, self._dpo),
        }
        return [
            Phase(name, self._with_reserve(name, parts()))
            for name, (is_played, parts) in found.items()
            if is_played and (only is None or name in only)
        ]

    def shares_prompts(self, *, longest: bool = False) -> bool:
        """Return whether training shares prompts between responses: if that is exact and not turned off."""
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

    def _start(self, longest: bool) -> dict[str, int]:
        """Return the parts of training the start: from scratch, or with SFT first, perhaps with another adapter."""
        if self.setup.is_from_scratch:
            return self._supervised(longest, self.setup.recipe.start.start_batch_size, 1)
        args = self.setup.of_sft().args
        return self.of_sft._supervised(longest, args.per_device_train_batch_size, args.gradient_accumulation_steps)

    def _supervised(self, longest: bool, batch_size: int, accumulation: int) -> dict[str, int]:
        rows = self._micro_batch(batch_size, longest=longest)
        smoothings = [self.setup.recipe.start.start_label_smoothing, *self.setup.play.baseline_label_smoothing]
        play = functools.partial(supervised, self.policy, rows, smoothing=any(smoothings))
        return self._stepped(play, accumulation, frozen=False)

    def _dpo(self) -> dict[str, int]:
        """Return the parts of DPO on top: of a step on the longest pairs, or of the reference's pass before the first step.

        In full fine-tuning, the reference is only that pass. With an adapter, DPO on an iteration keeps a frozen copy of it.
        """
        setup, lengths = self.setup.of_dpo(), self.lengths.preferences
        assert lengths is not None
        pair = PairLengths(lengths.longest[0], lengths.longest[1:])
        shares = self.shares_prompts() and obstacles.of_length(self.policy.base.config, pair.longest) is None
        is_alike = setup.checkpointing == self.setup.checkpointing
        plan = copy.copy(self) if is_alike else MemoryPlan(setup, self.lengths, self.device_bytes)
        plan.setup = setup
        args = setup.args
        play = functools.partial(training, plan.policy, [pair] * args.per_device_train_batch_size, shared=shares)
        trained = plan._stepped(play, args.gradient_accumulation_steps)
        if setup.peft is not None:
            if not self.setup.keeps_adapter:  # the planned policy has no frozen copy
                trained["adapters"] *= 2
            return trained
        scored = scoring(plan.policy, [pair] * setup.opponent_batch, shared=shares)
        reference = plan._static(frozen=True) | _by_part(scored)
        return max(trained, reference, key=lambda parts: sum(parts.values()))

    def _opponent(self, longest: bool) -> dict[str, int]:
        pairs = self._micro_batch(self.setup.opponent_batch, branches=2, longest=longest)
        peak = scoring(self.policy, pairs, shared=self.shares_prompts(longest=longest))
        parts = self._static(frozen=True)
        if self.setup.sharding.kind == "FSDP":  # the opponent is loaded next to the policy, then freed
            parts["weights"] += self._sharded_weights()
        return parts | _by_part(peak)

    def _evaluate(self, longest: bool) -> dict[str, int]:
        args, count = self.setup.args, max(self.lengths.num_held_out // self.setup.num_processes, 1)
        scored = self._scored(min(args.per_device_eval_batch_size, count), longest)
        answered = self._answer(self.at_once(self.lengths.num_held_out))
        return max(scored, answered, key=lambda parts: sum(parts.values()))

    def _scored(self, size: int, longest: bool) -> dict[str, int]:
        """Return the parts of a pass of a whole replica that scores `size` responses at once, each with its own prompt."""
        rows = self._micro_batch(size, branches=2, longest=longest)
        alone = [PairLengths(pair.prompt, (max(pair.responses),)) for pair in rows]
        return self._replica() | _by_part(scoring(self.replica, alone, shared=False))

    # ---- parts of phases ----------------------------------------------------------------------------------------------

    def _micro_batch(self, size: int, branches: int | None = None, *, longest: bool) -> list[PairLengths]:
        return self.lengths.micro_batch(size, branches or self.setup.branches, longest=longest)

    def _replica(self) -> dict[str, int]:
        model = self.replica
        return {"weights": model.weight_bytes, "adapters": model.adapter_bytes}

    def at_once(self, responses: int) -> int:
        """Return the number of prompts that are answered at the same time, given the total number of responses."""
        return max(min(self.setup.room_for(self.batch_size), responses), 1)

    def _answer_to(self, num_prompts: int) -> dict[str, int]:
        """Return the parts of generation's peak: at the prefill or the last token of a micro-batch, whichever is larger.

        Of a vLLM server, it is the least that it needs; it uses all that is free. Servers that exist already take none here.
        """
        if self.setup.asks_servers:  # the model is only loaded before, to compare its log-probs with the servers'
            return self._scored(self.setup.opponent_batch, longest=False)
        if self.server is not None:
            return self.server.parts(self.lengths.longest_answer)
        lengths, model = self.lengths, self.replica
        vocabulary = model.base.get_output_embeddings().weight.size(0)
        first = prefill(model, num_prompts, lengths.longest_prompt)
        at_the_end = self._at_the_end(num_prompts)
        at_once = {"KV cache": first.kept, "activations": first.bytes - first.kept, "logits": 0}
        width = self.setup.dtype.itemsize if self.setup.precision == "no" else 2
        looked_at = lengths.longest_prompt * vocabulary * width
        alone = {"logits": looked_at, "activations": (first.bytes - first.kept) // num_prompts}
        most = max(at_the_end, at_once, alone, key=lambda parts: sum(parts.values()))
        return self._replica() | most

    def _at_the_end(self, num_prompts: int) -> dict[str, int]:
        """Return the parts of generation at the last token of a micro-batch of the longest rows."""
        model, args = self.replica, self.setup.args
        cache = round(self.cache_bytes_per_token * num_prompts * self.lengths.longest_answer)
        filters = args.temperature > 0 and (args.top_p < 1 or args.top_k > 0)
        logits = num_prompts * model.base.get_output_embeddings().weight.size(0) * bytes_per_logit(filters=filters)
        # While rows grow or are dropped, one layer's cache exists twice.
        return {"KV cache": cache + cache // model.num_layers, "logits": logits}

    def _static(self, *, frozen: bool) -> dict[str, int]:
        """Return the weights and adapters of training on one device."""
        policy, setup = self.policy, self.setup
        adapters = policy.adapter_bytes
        if not frozen and setup.keeps_adapter:
            adapters //= 2
        if not setup.sharding.is_sharded:
            return {"weights": policy.weight_bytes, "adapters": adapters}
        shards = setup.num_processes if setup.sharding.shards_weights else 1
        return {"weights": self._sharded_weights() + self._gathered(), "adapters": adapters // shards}

    def _sharded_weights(self) -> int:
        """Return a process's share of the weights that stay between steps."""
        policy, sharding = self.policy, self.setup.sharding
        if sharding.offloads_weights:
            return 0
        if sharding.kind == "FSDP":
            return 4 * policy.num_parameters // sharding.num_processes
        return policy.weight_bytes // (sharding.num_processes if sharding.shards_weights else 1)

    def _gathered(self) -> int:
        """Return the bytes of gathered weights that a process holds while it computes."""
        policy, sharding = self.policy, self.setup.sharding
        width = self.setup.trained().dtype.itemsize
        if sharding.kind == "ZeRO-3":
            return width * min(LIVE_PARAMETERS, policy.num_parameters)
        if sharding.kind == "FSDP":  # the current layer, the next one, and the weights outside of layers
            outside = policy.num_embeddings * (1 if policy.is_tied else 2)
            return width * (outside + 2 * (policy.num_parameters - outside) // policy.num_layers)
        return 0

    def _stepped(self, play: Callable[..., Peak], accumulation: int, *, frozen: bool = True) -> dict[str, int]:
        """Return the parts of an optimiser step's peak.

        Args:
            play: function that plays a micro-batch; takes `keep_gradients`.
            accumulation: number of micro-batches per step.
            frozen: whether the frozen adapter is loaded.
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
            # Gradients already exist before a micro-batch begins; DDP's communication buckets hold them a second time.
            peak = play(keep_gradients=False)
            others = max(peak.bytes, step)
            parts["gradients"] = gradients * (2 if setup.sharding.kind == "DDP" else 1)
        return parts | _by_part(Peak(others, min(peak.head, others)))

    def _sharded_states(self, optim: str, count: int) -> dict[str, int]:
        """Return a process's gradients and optimiser states, which include float32 weights with DeepSpeed."""
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
            several = self.setup.num_processes > 1 and name in ("train", "opponent's pass", "baseline", "dpo")
            reserve = CONTEXT + (COMMUNICATION if several else 0) + SLACK * sum(parts.values())
            parts = parts | {"reserve": round(reserve)}
        return {part: parts[part] for part in PARTS if parts.get(part)}


def _by_part(peak: Peak) -> dict[str, int]:
    return {"logits": peak.head, "activations": peak.bytes - peak.head}
