"""Estimates a run's time, as the operations of every phase over the device's speed ([`devices`]), and its disk space."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..config.dpo_on_top import dpo_config, dpo_steps
from ..config.engines import ALL_AHEAD, NONE_AHEAD, VLLM
from ..config.sft_first import sft_epochs, sft_steps, sft_values
from ..config.steps import gradient_steps
from ..config.traits import EQUAL_COMPUTE
from ..run.compute import TRAINED_COUNTS, Compute
from ..run.run import arms_of
from ..run.stage import BEST_SFT, DPO
from .devices import Speed
from .memory import MemoryPlan, kept_by, state_bytes
from .model import PlannedModel
from .setup import Setup

PADDING = 1.3
"""Approximate factor by which padding to the longest row of a micro-batch increases the number of tokens."""

BYTES_A_TOKEN = 4
"""Bytes per token id in Parquet and Arrow files."""

COPIES = 3
"""Number of times a generated token is written: as sampled, in the pairs, and in the pairs with log-probabilities."""

TOKENIZER = 15_000_000
"""Bytes of a tokenizer, which is saved with every model, if the start's is not available locally."""

REQUESTS_A_QUESTION = 4
"""Assumed requests per question of a task of lm-evaluation-harness: one for each answer of a multiple-choice question."""

TOKENS_A_REQUEST = 200
"""Assumed tokens per request, without few-shot examples."""

SERVER_START = 90.0
"""Assumed seconds until a vLLM server is ready: 75 to 110 for vLLM 0.31 and a small model on two cores of a CPU."""


@dataclass(frozen=True)
class Work:
    """The time and tokens of an iteration, the start, or a phase that ends the run.

    Attributes:
        stage: `start`, `iteration-0`, ..., `dpo`, `test`.
        seconds: seconds by phase.
        sampled: number of tokens generated for training.
        trained: number of tokens trained on (forward and backward), over all epochs.
        steps: number of optimiser steps.
        rows: number of rows or pairs trained on, over all epochs.
        compute: compute, counted as a run does ([`Compute`]).
    """

    stage: str
    seconds: Mapping[str, float]
    sampled: float = 0.0
    trained: float = 0.0
    steps: int = 0
    rows: float = 0.0
    compute: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())


class ModelCosts:
    """The properties of a model that determine its compute: operations per token, and bytes read per token.

    Args:
        model: planned model.
    """

    def __init__(self, model: PlannedModel) -> None:
        config = model.base.config.get_text_config()
        self.head = model.base.get_output_embeddings().weight.numel()
        outside = model.num_embeddings + (0 if model.is_tied else self.head)
        experts = sum(p.numel() for name, p in model.base.named_parameters() if ".experts." in name)
        per_token = getattr(config, "num_experts_per_tok", None)
        count = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
        idle = experts * (1 - per_token / count) if per_token and count else 0.0
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.body = model.num_parameters - outside - idle
        self.attention = 4 * config.num_hidden_layers * config.num_attention_heads * width
        self.weight_bytes = model.weight_bytes

    def forward(self, tokens: float, labels: float, row: float) -> float:
        """Return the operations of a forward pass.

        Args:
            tokens: number of tokens processed.
            labels: number of those at which the head is computed.
            row: tokens per row; a token attends to half of them on average.
        """
        return tokens * (2 * self.body + self.attention * row / 2) + labels * 2 * self.head


class Hours:
    """Estimates the time of every stage of a run.

    Args:
        memory: memory plan of the run, which holds its models.
    """

    def __init__(self, memory: MemoryPlan) -> None:
        self.setup, self.lengths, self.batch_size = memory.setup, memory.lengths, memory.batch_size
        self.costs = ModelCosts(memory.replica)
        self.shares = memory.shares_prompts()
        self.read_by_row = memory.cache_bytes_per_token * (self.lengths.prompt + self.lengths.generated / 2)
        self.passes = _passes(self.setup)
        self.server_start = SERVER_START if self.setup.args.engine == VLLM else 0.0
        self.longest_of = functools.cache(self.lengths.longest_of)

    def work(self, speed: Speed) -> list[Work]:
        """Return the work of the start and all iterations, on all processes together, given the speed of one device."""
        start = self._start(speed)
        iterations = [self._iteration(t, speed) for t in range(self.setup.play.num_iterations)]
        if BEST_SFT in arms_of(self.setup.play):
            last, seconds = iterations[-1], self._best_sft([start, *iterations], speed)
            of_baseline = {"baseline": last.seconds.get("baseline", 0.0) + seconds}
            iterations[-1] = dataclasses.replace(last, seconds={**last.seconds, **of_baseline})
        at_end = [self._dpo(speed)] if self.setup.play.then_dpo and self.lengths.preferences is not None else []
        at_end += [self._final_test(speed)] if self.lengths.num_tested else []
        return [start, *iterations, *at_end]

    def _dpo(self, speed: Speed) -> Work:
        """Return the work of DPO on top: training every model that `then_dpo` names, and evaluating it."""
        setup, pairs, models = self.setup, self.lengths.preferences, len(self.setup.play.then_dpo or ())
        assert pairs is not None
        args = dpo_config(setup.args, setup.play)
        steps = dpo_steps(setup.args, setup.play, pairs.num_pairs, setup.num_processes)
        trained = steps * args.per_device_train_batch_size * args.gradient_accumulation_steps * setup.num_processes
        if args.max_steps <= 0:
            trained = min(trained, round(pairs.num_pairs * args.num_train_epochs))
        # Without shared prompts, both responses of a pair have their own.
        tokens = pairs.pair if self.shares else PADDING * (2 * pairs.pair - 2 * pairs.response)
        forward = self.costs.forward(tokens, 2 * pairs.response, pairs.pair - pairs.response)
        is_full = setup.peft is None  # an adapter's reference runs at every step
        of_reference = pairs.num_pairs if is_full else trained
        operations = _passes(setup.of_dpo()) * trained * forward + of_reference * forward
        seconds = {"train": models * self._trained(trained * tokens, operations, speed)}
        if evaluated := self._measured(1, speed):
            seconds["evaluate"] = models * evaluated
        return Work(DPO, seconds, trained=models * trained * tokens, steps=models * steps)

    def _final_test(self, speed: Speed) -> Work:
        """Return the work of measuring the final models on the test set: the start, the best iteration, each baseline's
        best, and with SFT first the base."""
        play = self.setup.play
        models = 2 + self.setup.sft_first + len(arms_of(play)) + len(play.then_dpo or ())
        evaluated = self._evaluate(0, speed, self.lengths.num_tested) + self.server_start
        return Work("test", {"test": models * evaluated})

    def _measured(self, players: int, speed: Speed) -> float:
        """Return the seconds of evaluating a model and measuring it on the retention set, with all answers in one start of
        the servers."""
        lengths = self.lengths
        evaluated = self._evaluate(players, speed, lengths.num_held_out) if lengths.num_held_out else 0.0
        answers = lengths.num_held_out or (self.setup.play.retain_scorer and lengths.num_retained)
        return evaluated + self._retention(speed) + (self.server_start if answers else 0.0)

    def _answers_ahead(self, t: int) -> bool:
        """Return whether the opponent of an iteration (0-based) answers while it is served for its evaluation."""
        ahead = self.setup.play.generate_ahead
        return self.lengths.num_held_out > 0 and (ahead == ALL_AHEAD or (t == 0 and ahead != NONE_AHEAD))

    def _retention(self, speed: Speed) -> float:
        """Return the seconds of measuring a model on the retention set and on tasks of lm-evaluation-harness."""
        lengths, play = self.lengths, self.setup.play
        questions = len(play.retain_tasks or ()) * play.retain_max
        requested = float(questions * REQUESTS_A_QUESTION * TOKENS_A_REQUEST)
        seconds = self._computed(self.costs.forward(requested, requested, TOKENS_A_REQUEST), speed)
        if play.retain_scorer and lengths.num_retained:  # the model also answers
            return seconds + self._evaluate(0, speed, lengths.num_retained)
        tokens, row = PADDING * lengths.num_retained, lengths.prompt + lengths.real
        return seconds + self._computed(self.costs.forward(tokens * row, tokens * lengths.real, row), speed)

    def _start(self, speed: Speed) -> Work:
        seconds, rows = {}, 0.0
        if self.setup.is_from_scratch:
            rows = self.lengths.num_rows * self.setup.recipe.start.start_num_epochs
            seconds["train"] = self._supervised(rows, speed)
        elif self.setup.sft_first:
            rows = self._rows_of_sft()
            seconds["train"] = self._sft_first(speed)
        if measured := self._measured(0, speed):  # with SFT first, the base is evaluated as well
            seconds["evaluate"] = measured * (2 if self.setup.sft_first else 1)
        return Work("start", seconds, rows=rows, compute=TRAINED_COUNTS * rows * self._row)

    def _sft_first(self, speed: Speed) -> float:
        """Return the seconds of SFT first, with its measurements of the held-out NLL."""
        steps, play = self._steps_of_sft(), self.setup.play
        every = sft_values(play).get("eval_steps") or steps / max(sft_epochs(play), 1)
        return self._from_base(self._rows_of_sft(), math.floor(steps / max(every, 1)), speed)

    def _from_base(self, rows: float, measurements: int, speed: Speed) -> float:
        """Return the seconds of SFT from the base, with its measurements of the held-out NLL."""
        lengths, row = self.lengths, self._row
        measured = PADDING * measurements * lengths.num_held_out
        trained = self._supervised(rows, speed) * _passes(self.setup.of_sft()) / self.passes
        return trained + self._computed(self.costs.forward(measured * row, measured * lengths.real, row), speed)

    def _best_sft(self, stages: list[Work], speed: Speed) -> float:
        """Return the seconds of the baseline from the base, which is as long as SFT first and all iterations together."""
        play, lengths = self.setup.play, self.lengths
        rows = sum(stage.rows for stage in stages)
        if play.baseline_equal == EQUAL_COMPUTE:
            rows = sum(stage.compute for stage in stages) / (TRAINED_COUNTS * self._row)
        every = sft_values(play).get("eval_steps")
        steps_apart = lengths.num_rows if every is None else every * self._rows_of_sft() / self._steps_of_sft()
        trained = self._from_base(rows, math.floor(rows / max(steps_apart, 1)), speed)
        return trained + self._measured(1, speed)

    @property
    def _row(self) -> float:
        """Tokens of a prompt and its real response."""
        return self.lengths.prompt + self.lengths.real

    def _steps_of_sft(self) -> int:
        seen = max(round(self.setup.play.sft_share * self.lengths.num_rows), 1)
        return sft_steps(self.setup.args, self.setup.play, seen, self.setup.num_processes)

    def _rows_of_sft(self) -> float:
        """Return the number of rows that SFT first trains on, over all epochs."""
        args = self.setup.of_sft().args
        a_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * self.setup.num_processes
        return float(self._steps_of_sft() * a_step)

    def _iteration(self, t: int, speed: Speed) -> Work:
        setup, lengths, args, play = self.setup, self.lengths, self.setup.args, self.setup.play
        responses = setup.self_play_rows(lengths.num_rows) * args.num_generations
        pairs = responses * (1 + min(play.history, t))
        epochs = setup.of_iteration("num_train_epochs", t)
        steps = gradient_steps(args, pairs, setup.num_processes, epochs)
        # The last step of an epoch may have fewer pairs than the others.
        trained_pairs = steps * setup.pairs_per_step
        if args.max_steps <= 0:
            trained_pairs = min(trained_pairs, round(pairs * epochs))
        branches = 3 if setup.terms.needs_proto and t else 2
        labels = lengths.real + (branches - 1) * lengths.generated
        tokens = lengths.prompt + labels if self.shares else PADDING * (branches * lengths.prompt + labels)
        forward = self.costs.forward(tokens, labels, lengths.prompt + lengths.real)
        seconds = {"generate": self._answer(responses, speed) + (0.0 if self._answers_ahead(t) else self.server_start)}
        if setup.mixes_start and t:
            seconds["start's pass"] = self._scored_by_start(t, speed)
        passes = self.passes
        if setup.terms.couples_pairs and args.gradient_accumulation_steps > 1:
            passes += 1  # all pairs of a step are scored before the first of them gets a gradient
        if setup.opponent_is_precomputed:
            seconds["opponent's pass"] = self._computed(pairs * forward, speed)
        elif not setup.terms.reference_free:
            passes += 1
        seconds["train"] = self._trained(trained_pairs * tokens, passes * trained_pairs * forward, speed)
        if evaluated := self._measured(t + 1, speed):
            seconds["evaluate"] = evaluated
        compute = self._compute(responses, pairs, trained_pairs, labels)
        if arms := [arm for arm in arms_of(play) if arm != BEST_SFT]:
            is_compute = play.baseline_equal == EQUAL_COMPUTE
            rows = compute / (TRAINED_COUNTS * self._row) if is_compute else trained_pairs
            seconds["baseline"] = len(arms) * (self._supervised(rows, speed) + evaluated)
        sampled = responses * lengths.generated
        return Work(f"iteration-{t}", seconds, sampled, trained_pairs * tokens, steps, trained_pairs, compute)

    def _compute(self, responses: float, pairs: float, trained_pairs: float, labels: float) -> float:
        """Return the compute of an iteration, without that of the start's pass (`opponent_mix`).

        Args:
            responses: number of generated responses.
            pairs: number of pairs.
            trained_pairs: number of pairs trained on, over all epochs.
            labels: tokens of the responses in a pair.
        """
        pair, setup = self.lengths.prompt + labels, self.setup
        scored = 0.0 if setup.terms.reference_free else pairs if setup.opponent_is_precomputed else trained_pairs
        answered = responses * (self.lengths.prompt + self.lengths.generated)
        return Compute(trained=trained_pairs * pair, scored=scored * pair, sampled=answered).total

    def _scored_by_start(self, t: int, speed: Speed) -> float:
        """Return the seconds in which the start scores what it has not scored yet: from iteration 2 on, new responses."""
        lengths, responses = self.lengths, self.lengths.num_rows * self.setup.args.num_generations
        generated = responses * (2 if t == 1 and self.setup.play.history else 1)
        real = lengths.num_rows if t == 1 else 0
        labels = PADDING * (real * lengths.real + generated * lengths.generated)
        tokens = PADDING * (real + generated) * lengths.prompt + labels
        return self._computed(self.costs.forward(tokens, labels, lengths.prompt + lengths.real), speed)

    def _computed(self, operations: float, speed: Speed) -> float:
        return operations / (speed.flops * self.setup.num_processes)

    def _trained(self, tokens: float, operations: float, speed: Speed) -> float:
        """Return the seconds of training, at the user's measured rate if given."""
        if speed.training_tokens:
            return tokens / (speed.training_tokens * self.setup.num_processes)
        return self._computed(operations, speed)

    def _supervised(self, rows: float, speed: Speed) -> float:
        """Return the seconds of supervised training, which computes logits at the tokens of responses."""
        row = self.lengths.prompt + self.lengths.real
        tokens = PADDING * rows * row
        return self._trained(tokens, self.passes * self.costs.forward(tokens, rows * self.lengths.real, row), speed)

    def _evaluate(self, players: int, speed: Speed, prompts: int) -> float:
        """Return the seconds of responding to prompts, once or twice, and scoring real and generated responses."""
        lengths = self.lengths
        answered = self._answer(prompts, speed) * (2 if self.setup.play.evaluate_greedy else 1)
        scored = (3 if players else 2) * prompts * PADDING
        row = lengths.prompt + lengths.real
        return answered + self._computed(self.costs.forward(scored * row, scored * lengths.real, row), speed)

    def _answer(self, responses: int, speed: Speed) -> float:
        """Return the seconds of generation: every micro-batch runs until its longest response ends, as a single row then."""
        lengths, processes = self.lengths, self.setup.num_processes
        if speed.generation_tokens:  # of one device, or of all servers that exist already
            devices = 1 if self.setup.asks_servers else processes
            return responses * lengths.generated / (speed.generation_tokens * devices)
        if speed.served_tokens:
            return responses * lengths.generated / speed.served_tokens
        size = max(min(self.batch_size, responses), 1)
        batches = math.ceil(math.ceil(responses / size) / processes)
        steps = self.longest_of(size)
        alive = size * lengths.generated / steps
        step = speed.step_seconds + (self.costs.weight_bytes + alive * self.read_by_row) / speed.bandwidth
        sampled = self.costs.forward(alive, alive, lengths.prompt) / speed.flops
        prompts = self.costs.forward(size * lengths.prompt, size, lengths.prompt) / speed.flops
        return batches * (steps * (step + sampled) + prompts)


def _passes(setup: Setup) -> float:
    """Return the cost of a step in forward passes: that itself, the backward pass, and with checkpointing another forward
    pass. The backward pass is one for activations, and one for weights if they are trained."""
    return (2.0 if setup.peft is not None else 3.0) + setup.checkpointing


def tokenizer_bytes(tokenizer: PreTrainedTokenizerBase | None) -> int:
    """Return the size of the files that a tokenizer is saved as; for None, that of a large one."""
    if tokenizer is None:
        return TOKENIZER
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def plan_disk(memory: MemoryPlan, work: list[Work]) -> dict[str, int]:
    """Return the bytes on disk by kind, at the run's peak: models, the checkpoints of one iteration, and generations.

    Args:
        memory: memory plan of the run, which holds its models.
        work: work of all stages.
    """
    setup, lengths, policy = memory.setup, memory.lengths, memory.policy
    args, play, optim = setup.args, setup.play, setup.optim
    whole = policy.num_parameters * setup.dtype.itemsize
    adapter = 4 * policy.num_trainable
    is_merged = setup.peft is not None and play.lora_opponent == "merge"
    of_tokenizer = tokenizer_bytes(lengths.tokenizer)
    model = (whole if setup.peft is None or is_merged else adapter) + of_tokenizer
    of_start = (whole if setup.sft_peft is None or setup.peft is None else adapter) + of_tokenizer
    # In addition to the newest models, the best one is kept, and the one being trained is there too.
    kept = play.num_iterations if play.keep_iterations is None else min(play.keep_iterations + 2, play.num_iterations)
    from_base = BEST_SFT in arms_of(play)
    arms = (len(arms_of(play)) - from_base) * play.num_iterations
    of_size = kept + arms + setup.is_from_scratch + len(play.then_dpo or ())
    found = {"models": of_size * model + (setup.sft_first + from_base) * of_start}
    if setup.sharding.is_sharded:  # in float32, with its optimiser
        checkpoint = whole + round(4 * (1 + kept_by(optim).states) * policy.num_trainable)
    else:
        checkpoint = (whole if setup.peft is None else adapter) + state_bytes(optim, policy.trainable)
    strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
    if strategy != "no":
        # Of DPO on several models, only one at a time has checkpoints.
        steps = max(one.steps // (len(play.then_dpo or ()) if one.stage == DPO else 1) for one in work)
        every = args.save_steps if args.save_steps >= 1 else args.save_steps * steps
        count = math.ceil(steps / max(every, 1)) if strategy == "steps" else math.ceil(args.num_train_epochs)
        if args.save_total_limit:
            count = min(count, args.save_total_limit + 1)  # the oldest is deleted once the newest is written
        found["checkpoints"] = count * checkpoint
    if setup.sft_first:  # the newest, the best one so far, and the one that is being written
        trainable = memory.of_sft.policy.trainable
        size = whole if setup.sft_peft is None else sum(4 * parameter.numel() for parameter in trainable)
        of_sft = size + state_bytes(setup.of_sft().optim, trainable)
        found["checkpoints"] = max(found.get("checkpoints", 0), 3 * of_sft)
    rows = (lengths.num_rows + lengths.num_held_out) * (lengths.prompt + lengths.real)
    found["data and generations"] = round(
        BYTES_A_TOKEN * (2 * rows + COPIES * sum(one.sampled for one in work) + COPIES * rows * play.num_iterations)
    )
    if not setup.is_from_scratch and not os.path.isdir(setup.recipe.model.model_name_or_path or ""):
        found["the start, in the Hub's cache"] = 2 * policy.num_parameters
    return found
