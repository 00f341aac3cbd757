"""Shows which engine a planned run generates with, and what vLLM's servers would do on a device."""

from __future__ import annotations

from collections.abc import Iterator

from rich import filesize

from ..config.engines import AUTO, TRANSFORMERS, VLLM
from ..counts import counted
from .costs import SERVER_START
from .devices import Device
from .engine import what_to_serve
from .planning import Plan
from .server_rate import num_servers, sequences_at_once


def engine_lines(plan: Plan, device: Device) -> Iterator[str]:
    """Yield lines on the engine: what `engine: auto` has chosen; and for vLLM, its memory and rate on a device."""
    if plan.choice is not None:
        yield str(plan.choice)
        if plan.choice.engine == TRANSFORMERS and device.is_gpu:
            yield f"A run chooses where it begins. With vLLM there, it would be planned by `--engine {VLLM}`, not {AUTO}."
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
