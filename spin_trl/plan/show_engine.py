"""Shows which engine a planned run generates with, what vLLM's servers would do on a device, and what is assumed."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich import filesize

from ..config.engines import AUTO, TRANSFORMERS, VLLM
from ..config.server import SERVER
from ..counts import counted
from .costs import SERVER_START
from .devices import Device
from .engine import what_to_serve
from .planning import Plan
from .server_rate import num_servers, sequences_at_once


def engine_lines(plan: Plan, device: Device) -> Iterator[str]:
    """Yield lines on the engine: what `engine: auto` has chosen; for vLLM, its memory and rate on a device; and for servers
    that exist already and for continuous batching, what hours and memory assume."""
    if plan.choice is not None:
        yield str(plan.choice)
        if plan.choice.engine == TRANSFORMERS and device.is_gpu:
            yield f"A run chooses where it begins. With vLLM there, it would be planned by `--engine {VLLM}`, not {AUTO}."
    if plan.setup.asks_servers:
        yield from _of_given_servers(plan, device)
    if plan.setup.is_continuous:
        yield from _of_continuous_batching(plan, device)
    server, rate = plan.memory.server, plan.rate(device)
    if server is None or rate is None:
        return
    for reason in what_to_serve(plan.setup, plan.here).refusals():
        yield f"A run would be refused: {reason}"
    lengths, parallel = plan.lengths, plan.setup.play.tensor_parallel
    where = f"on each of the {parallel} GPUs of a server" if parallel > 1 else "each"
    sizes = (
        f"{filesize.decimal(server.weights)} of weights, {filesize.decimal(server.token)} of keys and values a token"
    )
    yield f"vLLM: {counted(num_servers(plan.memory), 'server')}; {sizes} ({where})"
    mean, longest = round(lengths.prompt + lengths.generated), lengths.longest_answer
    asked = f"{counted(sequences_at_once(plan.memory, device), 'sequence')} at once"
    if device.is_gpu:
        room = server.room(device)
        yield (
            f"On {device.name} there is room for {room:,} tokens: {room // longest:,} sequences of maximum length "
            f"({longest:,}), {room // mean:,} of mean length ({mean:,}); the run generates {asked}"
        )
    else:
        yield f"On a CPU the run makes room for {asked}, of maximum length ({longest:,} tokens)"
    if plan.setup.quantization is not None:
        yield "The servers' base model is not quantised (`vllm_unquantised_base`)"
    if server.merged:
        yield f"vLLM can't load the adapter: it is merged, into {filesize.decimal(server.merged)} on disk while it is served"
    if plan.wishes.generation_tokens is None:
        yield (
            f"Generation: {rate.tokens:,.0f} tokens per second, {rate.source}. A start of the servers (how many there "
            f"are depends on `generate_ahead`) is assumed to take {SERVER_START:.0f} s"
        )


def _of_given_servers(plan: Plan, device: Device) -> Iterator[str]:
    rate, given = plan.rate(device), plan.wishes.generation_tokens
    if given is not None:
        yield f"Servers: {given:,.0f} tokens per second of all servers together, as given"
    elif rate is not None:
        yield f"Servers: {rate.tokens:,.0f} tokens per second of all servers together, {rate.source}"
    else:
        own = f"{counted(plan.setup.num_processes, 'device')} of this run" if plan.setup.on_gpu else "this CPU"
        yield (
            f"The rate of the servers (`engine: {SERVER}`) is unknown: hours assume transformers on {own} ({device.name}). "
            "Give a rate of all servers together by `--generation_tokens_per_second`; once the run has generated, its own "
            "rate is used"
        )
    where = "GPU" if device.is_gpu else "machine"
    yield (
        f"While the servers generate, they need no memory of this {where}. `generate` in the table is the model, which is "
        "loaded before that to compare its log-probs with theirs. Neither this nor giving the servers the weights "
        "(`server_reload`) is in the hours"
    )


def _of_continuous_batching(plan: Plan, device: Device) -> Iterator[str]:
    setup, size = plan.setup, plan.memory.batch_size
    if plan.wishes.generation_tokens is None:
        at_once = math.ceil(setup.play.generation_concurrency / setup.num_processes)
        fewer = "a response that ends makes room for another here, so there are fewer steps of generation than that"
        if at_once < size:
            fewer = f"`generation_concurrency` allows {at_once}, so generation may take longer than that"
        yield (
            f"Continuous batching: hours are those of fixed micro-batches of {counted(size, 'response')} "
            f"(`generation_batch_size`), each as long as its longest response; {fewer}. A step is assumed to take as "
            "long. The start of its processes, which load the model in every phase, is not in the hours"
        )
    longest = plan.lengths.longest_answer
    if device.is_gpu:
        yield f"Its cache takes most of the GPU's free memory; planned is room for one response ({longest:,} tokens)"
    else:
        yield f"Its cache has room for {counted(setup.room_for(size), 'response')} of maximum length ({longest:,} tokens)"
