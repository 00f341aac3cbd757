"""Peak memory of every phase of a run on one device, by part.

What outlasts a step (weights, optimiser states) is arithmetic on the model's parameters; what a step takes is found by
playing it on tensors without numbers ([`rehearsal`]). Full fine-tuning keeps no second model; with an adapter the opponent
is a frozen copy of it. The shares of sharded training are those of DeepSpeed's own estimators for ZeRO-2 and ZeRO-3
(`estimate_zero2_model_states_mem_needs` and its like), and of FSDP2 with float32 weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass

from .model import ModelSettings, PlannedModel
from .optimizers import kept_by, state_bytes, step_bytes
from .rehearsal import PairLengths, Peak, prefill, scoring, shares_prompts, supervised, training
from .setup import Setup
from .tokens import Lengths

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


class MemoryPlan:
    """The phases of a run, each with its peak. Models are built once, and a rehearsal is played once.

    Args:
        setup: of the run.
        lengths: of its prompts and responses.
    """

    def __init__(self, setup: Setup, lengths: Lengths) -> None:
        self.setup = setup
        self.lengths = lengths
        self._models: dict[str, PlannedModel] = {}

    def phases(self, *, longest: bool = False, only: Collection[str] | None = None) -> list[Phase]:
        """All phases that the run has, in the order in which they are played.

        Args:
            longest: plan for responses that are all as long as they may be.
            only: names of the phases to plan; None: all.

        Raises:
            PlanError: the model can't be followed.
        """
        setup = self.setup
        found: list[tuple[str, Callable[[bool], dict[str, int]]]] = []
        if setup.is_from_scratch:
            found.append(("start", self._start))
        found.append(("generate", self._generate))
        if setup.opponent_is_precomputed:
            found.append(("opponent's pass", self._opponent))
        found.append(("train", self._train))
        if self.lengths.num_held_out:
            found.append(("evaluate", self._evaluate))
        if setup.play.baseline:
            found.append(("baseline", self._baseline))
        wanted = [(name, parts) for name, parts in found if only is None or name in only]
        return [Phase(name, self._with_reserve(name, parts(longest))) for name, parts in wanted]

    @property
    def policy(self) -> PlannedModel:
        """The model as training has it."""
        return self._model("trained", self.setup.trained())

    @property
    def replica(self) -> PlannedModel:
        """The model as generation has it."""
        return self._model("loaded", self.setup.loaded())

    def _model(self, name: str, settings: ModelSettings) -> PlannedModel:
        if name not in self._models:
            self._models[name] = PlannedModel(settings)
        return self._models[name]

    @functools.cached_property
    def cache_bytes_per_token(self) -> float:
        """Bytes that a token of one row takes in the key-value cache."""
        return prefill(self.replica, 1, 64).kept / 64

    def shares_prompts(self, *, longest: bool = False) -> bool:
        """Whether training runs over unique tokens."""
        pairs = self._micro_batch(1, longest=longest)
        return shares_prompts(self.policy, self.setup.args.shared_prefix, max(pair.longest for pair in pairs))

    # ---- phases -------------------------------------------------------------------------------------------------------

    def _train(self, longest: bool) -> dict[str, int]:
        args = self.setup.args
        pairs = self._micro_batch(args.per_device_train_batch_size, longest=longest)
        play = functools.partial(
            training,
            self.policy,
            pairs,
            shared=self.shares_prompts(longest=longest),
            checkpointing=self.setup.checkpointing,
            on_gpu=self.setup.on_gpu,
        )
        return self._stepped(lambda keep: play(keep_gradients=keep), args.gradient_accumulation_steps)

    def _baseline(self, longest: bool) -> dict[str, int]:
        args = self.setup.args
        return self._supervised(longest, args.per_device_train_batch_size, args.gradient_accumulation_steps)

    def _start(self, longest: bool) -> dict[str, int]:
        return self._supervised(longest, self.setup.recipe.start.start_batch_size, 1)

    def _supervised(self, longest: bool, batch_size: int, accumulation: int) -> dict[str, int]:
        pairs = self._micro_batch(batch_size, longest=longest)
        smoothings = [self.setup.recipe.start.start_label_smoothing, *self.setup.play.baseline_label_smoothing]
        rows = [pair.prompt + pair.responses[0] for pair in pairs]

        play = functools.partial(
            supervised, self.policy, rows, checkpointing=self.setup.checkpointing, smoothing=any(smoothings)
        )
        return self._stepped(lambda keep: play(keep_gradients=keep), accumulation, frozen=False)

    def _opponent(self, longest: bool) -> dict[str, int]:
        pairs = self._micro_batch(self.setup.opponent_batch, branches=2, longest=longest)
        peak = scoring(self.policy, pairs, shared=self.shares_prompts(longest=longest), on_gpu=self.setup.on_gpu)
        parts = self._static(frozen=True)
        if self.setup.sharding.kind == "FSDP":  # the opponent is loaded beside the policy, and freed
            parts["weights"] += self._sharded_weights()
        return _add(parts, peak)

    def _generate(self, longest: bool) -> dict[str, int]:
        return self._answer(min(self.setup.args.generation_batch_size, self._responses(self.lengths.num_rows)))

    def _evaluate(self, longest: bool) -> dict[str, int]:
        args, count = self.setup.args, max(self.lengths.num_held_out // self.setup.num_processes, 1)
        rows = self._micro_batch(min(args.per_device_eval_batch_size, count), branches=2, longest=longest)
        peak = scoring(
            self.replica,
            [PairLengths(pair.prompt, (max(pair.responses),)) for pair in rows],
            shared=False,
            on_gpu=self.setup.on_gpu,
        )
        scored = _add(self._replica(), peak)
        answered = self._answer(min(args.generation_batch_size, self.lengths.num_held_out))
        return max(scored, answered, key=lambda parts: sum(parts.values()))

    # ---- what they are made of ----------------------------------------------------------------------------------------

    def _micro_batch(self, size: int, branches: int | None = None, *, longest: bool) -> list[PairLengths]:
        return self.lengths.micro_batch(size, branches or self.setup.branches, longest=longest)

    def _responses(self, rows: int) -> int:
        return max(rows * self.setup.args.num_generations, 1)

    def _replica(self) -> dict[str, int]:
        model = self.replica
        return {"weights": model.weight_bytes, "adapters": model.adapter_bytes}

    def _answer(self, num_prompts: int) -> dict[str, int]:
        """Answering a micro-batch: its prompts at once, or its last token, whichever takes more."""
        lengths, model = self.lengths, self.replica
        vocabulary = model.base.get_output_embeddings().weight.size(0)
        first = prefill(model, num_prompts, lengths.longest_prompt)
        cache = round(self.cache_bytes_per_token * num_prompts * lengths.longest_answer)
        layers = max(getattr(model.base.config.get_text_config(), "num_hidden_layers", 1), 1)
        args = self.setup.args
        filters = args.temperature > 0 and (args.top_p < 1 or args.top_k > 0)
        logits = num_prompts * vocabulary * (FILTERED_SAMPLING if filters else SAMPLING)
        # While a row is lengthened or dropped, one layer's cache exists twice.
        at_the_end = {"KV cache": cache + cache // layers, "logits": logits}
        at_once = {"KV cache": first.kept, "activations": first.bytes - first.kept, "logits": 0}
        width = self.setup.dtype.itemsize if self.setup.precision == "no" else 2
        looked_at = lengths.longest_prompt * vocabulary * width
        alone = {"logits": looked_at, "activations": (first.bytes - first.kept) // num_prompts}
        return self._replica() | max(at_the_end, at_once, alone, key=lambda parts: sum(parts.values()))

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
            layers = max(getattr(policy.base.config.get_text_config(), "num_hidden_layers", 1), 1)
            outside = policy.num_embeddings * (1 if policy.is_tied else 2)
            return width * (outside + 2 * (policy.num_parameters - outside) // layers)
        return 0

    def _stepped(self, play: Callable[[bool], Peak], accumulation: int, *, frozen: bool = True) -> dict[str, int]:
        """Parts of an optimiser step's peak.

        Args:
            play: plays a micro-batch; given whether its gradients are kept.
            accumulation: micro-batches of the step.
            frozen: whether the frozen adapter is there.
        """
        policy, setup = self.policy, self.setup
        trained, optim = policy.trainable, setup.optim
        embeddings = [policy.base.get_input_embeddings().weight]
        parts = self._static(frozen=frozen)
        gradients = sum(parameter.numel() * parameter.element_size() for parameter in trained)
        if setup.sharding.is_sharded:
            return _add(parts | self._sharded_states(optim, policy.num_trainable), play(False))
        step = step_bytes(optim, trained, on_gpu=setup.on_gpu)
        parts["optimiser"] = state_bytes(optim, trained, embeddings)
        if accumulation == 1 and setup.sharding.kind == "NO":
            peak = play(True)
            parts["gradients"] = gradients
            beside = max(peak.bytes - gradients, step, 0)
        else:
            # Gradients are there before a micro-batch begins; DDP sends them in buckets, which hold them once more.
            peak = play(False)
            beside = max(peak.bytes, step)
            parts["gradients"] = gradients * (2 if setup.sharding.kind == "DDP" else 1)
        head = min(peak.head, beside)
        return parts | {"logits": head, "activations": beside - head}

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


def _add(parts: dict[str, int], peak: Peak) -> dict[str, int]:
    return parts | {"logits": peak.head, "activations": peak.bytes - peak.head}
