"""How long a run takes: what every phase computes, over how fast that is ([`speed`])."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from .memory import MemoryPlan
from .model import PlannedModel
from .setup import Setup
from .speed import Speed
from .tokens import Lengths

PADDING = 1.3
"""Times as many tokens are run where rows are filled up to the longest of a micro-batch, about."""


@dataclass(frozen=True)
class Work:
    """What an iteration, or the start, takes.

    Attributes:
        stage: `start`, `iteration-0`, ...
        seconds: by phase.
        sampled: tokens that are generated for training.
        trained: tokens that go through forward and backward, over all epochs.
        steps: of the optimiser.
    """

    stage: str
    seconds: Mapping[str, float]
    sampled: float = 0.0
    trained: float = 0.0
    steps: int = 0

    @property
    def total(self) -> float:
        """Seconds."""
        return sum(self.seconds.values())


class ModelCosts:
    """What of a model decides how much it computes: operations by token, and bytes that a token reads.

    Args:
        model: planned.
    """

    def __init__(self, model: PlannedModel) -> None:
        config = model.base.config.get_text_config()
        head = model.base.get_output_embeddings().weight.numel()
        outside = model.num_embeddings + (0 if model.is_tied else head)
        experts = sum(p.numel() for name, p in model.base.named_parameters() if ".experts." in name)
        per_token = getattr(config, "num_experts_per_tok", None)
        count = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
        idle = experts * (1 - per_token / count) if per_token and count else 0.0
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.body = model.num_parameters - outside - idle
        self.head = head
        self.attention = 4 * config.num_hidden_layers * config.num_attention_heads * width
        self.weight_bytes = model.weight_bytes

    def forward(self, tokens: float, labels: float, row: float) -> float:
        """Operations of a forward pass.

        Args:
            tokens: that are run.
            labels: of them, those at which the head is computed.
            row: of how many tokens a row is, half of which a token sees on the average.
        """
        return tokens * (2 * self.body + self.attention * row / 2) + labels * 2 * self.head


def plan_hours(setup: Setup, lengths: Lengths, memory: MemoryPlan, speed: Speed) -> list[Work]:
    """What every stage of a run takes, on all processes together.

    Args:
        setup: of the run.
        lengths: of its prompts and responses.
        memory: which knows its models.
        speed: of one device.
    """
    hours = _Hours(setup, lengths, memory, speed)
    return [hours.start(), *(hours.iteration(t) for t in range(setup.play.num_iterations))]


class _Hours:
    def __init__(self, setup: Setup, lengths: Lengths, memory: MemoryPlan, speed: Speed) -> None:
        self.setup, self.lengths, self.speed = setup, lengths, speed
        self.shape = ModelCosts(memory.replica)
        self.shares = memory.shares_prompts()
        cache = memory.cache_bytes_per_token
        self.read_by_row = cache * (lengths.prompt + lengths.generated / 2)

    def start(self) -> Work:
        seconds = {}
        if self.setup.is_from_scratch:
            start = self.setup.recipe.start
            rows = self.lengths.num_rows * start.start_num_epochs
            seconds["train"] = self._supervised(rows)
        if self.lengths.num_held_out:
            seconds["evaluate"] = self._evaluate(0)
        return Work("start", seconds)

    def iteration(self, t: int) -> Work:
        setup, lengths, args, play = self.setup, self.lengths, self.setup.args, self.setup.play
        responses = lengths.num_rows * args.num_generations
        pairs = responses * (1 + min(play.history, t))
        steps = math.ceil(pairs * setup.of_iteration("num_train_epochs", t) / setup.pairs_per_step)
        if args.max_steps > 0:
            steps = args.max_steps
        trained_pairs = steps * setup.pairs_per_step
        branches = 3 if setup.terms.needs_proto and t else 2
        labels = lengths.real + (branches - 1) * lengths.generated
        tokens = lengths.prompt + labels if self.shares else PADDING * (branches * lengths.prompt + labels)
        forward = self.shape.forward(tokens, labels, lengths.prompt + lengths.real)
        seconds = {"generate": self._answer(responses, args.generation_batch_size)}
        passes = (2.0 if setup.peft is not None else 3.0) + setup.checkpointing
        if setup.terms.couples_pairs and args.gradient_accumulation_steps > 1:
            passes += 1  # all pairs of a step are looked at before the first of them has a gradient
        if setup.opponent_is_precomputed:
            seconds["opponent's pass"] = self._computed(pairs * forward)
        elif not setup.terms.reference_free:
            passes += 1
        if self.speed.training_tokens:
            seconds["train"] = trained_pairs * tokens / (self.speed.training_tokens * setup.num_processes)
        else:
            seconds["train"] = self._computed(trained_pairs * passes * forward)
        if lengths.num_held_out:
            seconds["evaluate"] = self._evaluate(t + 1)
        if play.baseline:
            arms = len(play.baseline_label_smoothing)
            evaluated = self._evaluate(t + 1) if lengths.num_held_out else 0.0
            seconds["baseline"] = arms * (self._supervised(trained_pairs) + evaluated)
        return Work(f"iteration-{t}", seconds, responses * lengths.generated, trained_pairs * tokens, steps)

    def _computed(self, operations: float) -> float:
        return operations / (self.speed.flops * self.setup.num_processes)

    def _supervised(self, rows: float) -> float:
        """Seconds of supervised training: whole rows, all of whose logits are computed."""
        lengths = self.lengths
        row = lengths.prompt + lengths.real
        passes = (2.0 if self.setup.peft is not None else 3.0) + self.setup.checkpointing
        tokens = PADDING * rows * row
        if self.speed.training_tokens:
            return tokens / (self.speed.training_tokens * self.setup.num_processes)
        return self._computed(passes * self.shape.forward(tokens, tokens, row))

    def _evaluate(self, players: int) -> float:
        """Seconds of answering held-out prompts, once or twice, and of scoring real and generated responses."""
        lengths, args = self.lengths, self.setup.args
        count = lengths.num_held_out
        answered = self._answer(count, args.generation_batch_size) * (2 if self.setup.play.evaluate_greedy else 1)
        scored = (3 if players else 2) * count * PADDING
        row = lengths.prompt + lengths.real
        return answered + self._computed(self.shape.forward(scored * row, scored * lengths.real, row))

    def _answer(self, responses: int, batch_size: int) -> float:
        """Seconds of answering: every micro-batch runs until its longest answer ends, as one row then."""
        lengths, processes = self.lengths, self.setup.num_processes
        if self.speed.generation_tokens:
            return responses * lengths.generated / (self.speed.generation_tokens * processes)
        size = max(min(batch_size, responses), 1)
        batches = math.ceil(math.ceil(responses / size) / processes)
        steps = _longest_of(lengths, size)
        alive = size * lengths.generated / steps
        step = self.speed.step_seconds + (self.shape.weight_bytes + alive * self.read_by_row) / self.speed.bandwidth
        sampled = self.shape.forward(alive, alive, lengths.prompt) / self.speed.flops
        prompts = self.shape.forward(size * lengths.prompt, size, lengths.prompt) / self.speed.flops
        return batches * (steps * (step + sampled) + prompts)


def _longest_of(lengths: Lengths, size: int) -> float:
    """Tokens of the longest of so many answers, on the average."""
    rng = random.Random(0)
    drawn = [max(lengths.pair(rng.choice(lengths.rows)).responses[1] for _ in range(size)) for _ in range(50)]
    found = sum(drawn) / len(drawn)
    if not lengths.is_counted:  # one length is known; the longest of many is about twice the mean
        found = min(2 * found, lengths.sampling.limit(round(lengths.prompt)))
    return max(found, 1.0)
