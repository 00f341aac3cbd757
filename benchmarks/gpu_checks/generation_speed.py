"""Useful tokens per second at Qwen2.5's shapes: our engine, plain `generate` in file order, continuous batching.

The weights are random, but the head's bias ends an answer with the same probability at every token, so lengths are mixed as
in real data: most are short, a few reach the limit. All arms sample the same model on the same prompts. Useful tokens are
those up to the end of an answer. Each arm is reported with the limit set by memory bandwidth: every token of a batch reads
all weights and the rows' keys and values. Plain `generate` runs with its defaults, which use cuDNN's attention if SDPA
prefers it; our engine does not use it. With 3B parameters, it is left out: it would take most of the time.
"""

from __future__ import annotations

import contextlib
import cProfile
import math
import pstats
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.generation import ContinuousBatchingConfig

import generation
import training
from spin_trl.generation.engine import Sampling

from . import recipes
from .check import Session
from .training_steps import shape

EOS, PAD = 1, 0
MEAN, LIMIT = 80, 256
"""Mean and maximum tokens of an answer."""

PROMPTS = (20, 200)

PLAIN, CONTINUOUS = "plain generate, 16 rows", "continuous batching"
"""Names of the arms that are not our engine."""


def run(session: Session) -> None:
    """Report the useful tokens per second of every arm with 0.5B parameters, and the limit set by memory bandwidth."""
    rates = measured(session, shape(session.tiny), is_compared=True)
    target = None if session.tiny else generation.TARGET
    session.figure("ours over plain generate", best_of(rates) / rates[PLAIN], "x", at_least=target)
    session.figure("ours over continuous batching", best_of(rates) / rates[CONTINUOUS], "x")


def run_3b(session: Session) -> None:
    """Report the same with 3B parameters, without plain `generate`."""
    rates = measured(session, shape(session.tiny, recipes.LORA_3B.size), is_compared=False)
    session.figure("ours over continuous batching", best_of(rates) / rates[CONTINUOUS], "x")


def best_of(rates: Mapping[str, float]) -> float:
    """Return the higher rate of our engine."""
    return max(rate for name, rate in rates.items() if name.startswith("ours"))


def measured(session: Session, settings: Mapping[str, Any], *, is_compared: bool) -> dict[str, float]:
    """Report the figures of every arm, and return the useful tokens per second by arm.

    Args:
        session: session of the check.
        settings: settings of the Qwen2.
        is_compared: whether plain `generate` is an arm.
    """
    training.save_model(settings, session.folder)
    dtype = torch.bfloat16 if session.on_gpu else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(session.folder / "model", dtype=dtype)
    model.to(session.device).eval()
    end_at_random(model, 1 / MEAN)
    rng = random.Random(0)
    limit, whole = (16, 8) if session.tiny else (LIMIT, 256)
    prompts = [[rng.randrange(10, settings["vocab_size"]) for _ in range(rng.randint(*PROMPTS))] for _ in range(whole)]
    quarter = max(whole // 4, 2)

    def ours(batch_size: int) -> Callable[[Sequence[list[int]], int], tuple[int, int]]:
        def arm(some: Sequence[list[int]], longest: int) -> tuple[int, int]:
            sampling = Sampling(1.0, 1.0, 0, longest, None, 1, batch_size, 0)
            responses, computed = generation.ours(model, some, sampling, [EOS], PAD)
            return sum(len(response.ids) for response in responses), computed

        return arm

    def plain(some: Sequence[list[int]], longest: int) -> tuple[int, int]:
        responses, computed = generation.plainly(
            model,
            some,
            Sampling(1.0, 1.0, 0, longest, None, 1, 16, 0),
            [EOS],
            PAD,
            generation.PEERS[generation.OFFICIAL],
        )
        return sum(len(response.ids) for response in responses), computed

    def continuous(some: Sequence[list[int]], longest: int) -> tuple[int, int]:
        # By default, its cache takes nearly all available memory, which a CPU would have to fill first.
        cache = None if session.on_gpu else ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=256)
        outputs = model.generate_batch(
            [list(prompt) for prompt in some],
            generation_config=generation.plain_sampling([EOS], PAD, longest),
            continuous_batching_config=cache,
            progress_bar=False,
        )
        useful = sum(len(output.generated_tokens) for output in outputs.values())
        return useful, useful

    rates: dict[str, float] = {}
    # Each arm gets just enough prompts to measure its rate: plain batches of 16 would take minutes for all prompts.
    arms: list[tuple[str, Callable[..., tuple[int, int]], int, int]] = [
        (f"ours, {whole} rows", ours(whole), whole, whole),
        (PLAIN, plain, 16, min(32, whole)),
        (f"ours, {quarter} rows", ours(quarter), quarter, 2 * quarter),
        (CONTINUOUS, continuous, whole, whole),
    ]
    bandwidth = session.reported("device").get("bandwidth")
    for name, arm, rows, count in arms:
        if name == PLAIN and not is_compared:
            continue
        rows = min(rows, count)
        arm(prompts[:rows], 4)  # warm-up
        with counted(model) as forwards:
            useful, computed, seconds = timed(arm, prompts[:count], limit, session.on_gpu)
        rates[name] = useful / seconds
        session.figure(f"{name}: useful tokens", useful / seconds, "/s")
        session.figure(f"{name}: a forward", 1000 * seconds / len(forwards), "ms")
        if name != CONTINUOUS:  # it samples for live rows only
            session.figure(f"{name}: useful of sampled", useful / computed)
        if bandwidth:
            session.figure(f"{name}: memory's limit, all rows alive", limit_of(model, rows, bandwidth * 1e9), "/s")
    with cProfile.Profile() as profiler:  # for the log: where a step's time goes
        ours(quarter)(prompts[:quarter], 32)
    pstats.Stats(profiler, stream=sys.stdout).sort_stats("cumulative").print_stats(45)
    return rates


def end_at_random(model: Any, chance: float) -> None:
    """Give the head a bias that ends an answer at every token with about this probability, for any prompt."""
    old = model.get_output_embeddings().weight
    vocabulary, width = old.shape
    head = torch.nn.Linear(width, vocabulary, device=old.device, dtype=old.dtype)
    with torch.no_grad():
        head.weight.copy_(old)
        head.weight[EOS] = 0
        head.bias.zero_()
        deviation = float(old.float().std()) * math.sqrt(width)  # of a logit, for states with entries of unit variance
        head.bias[EOS] = math.log(vocabulary) + deviation**2 / 2 + math.log(chance / (1 - chance))
    model.set_output_embeddings(head)


@contextlib.contextmanager
def counted(model: Any) -> Iterator[list[None]]:
    """Yield a list that grows by one with every forward pass of a model."""
    forwards: list[None] = []
    handle = model.get_decoder().register_forward_pre_hook(lambda *_: forwards.append(None))
    try:
        yield forwards
    finally:
        handle.remove()


def timed(
    arm: Callable[[Sequence[list[int]], int], tuple[int, int]], prompts: Sequence[list[int]], limit: int, on_gpu: bool
) -> tuple[int, int, float]:
    """Run an arm; return its useful and sampled tokens, and the seconds."""
    started = time.perf_counter()
    useful, computed = arm(prompts, limit)
    if on_gpu:
        torch.cuda.synchronize()
    return useful, computed, time.perf_counter() - started


def limit_of(model: Any, rows: int, bandwidth: float) -> float:
    """Return the tokens per second if a forward pass only read weights, keys and values, with all rows alive."""
    config = model.config
    # A token reads only its own row of the embeddings.
    weights = sum(parameter.nbytes for parameter in model.parameters()) - model.get_input_embeddings().weight.nbytes
    width = config.hidden_size // config.num_attention_heads
    by_token = 2 * config.num_hidden_layers * config.num_key_value_heads * width * model.dtype.itemsize
    # Long rows live longer: the average age of a live row equals the mean answer length.
    cached = rows * (sum(PROMPTS) / 2 + MEAN) * by_token
    return rows * bandwidth / (weights + cached)
