"""How many tokens a second servers generate: as this run's journal has measured, or else, vLLM's own, as is stated here.

A step of generation reads the weights and the keys and values of all sequences, and computes one token for each of them. On
one A100 with 40 GB, with Llama-3.1-8B in bfloat16 and prompts of 1,024 tokens, vLLM 0.23 reads at 77 % of the data sheet's
bandwidth with one sequence (75 tokens per second), and generates 6.6 times as many tokens with eight
(https://johnmusgrave.com/p/vllm-throughput-latency-sweep-on). These figures are predicted within a factor of two
(tests/plan/test_server_rate.py).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config.engines import VLLM
from ..counts import counted
from ..errors import GenerationsError
from ..generation.store import GenerationStore
from ..run.directory import RunDirectory
from ..run.journal import Journal, Step, is_of
from ..run.stage import Stage
from .costs import ModelCosts
from .devices import Device, Speed
from .memory import MemoryPlan
from .server_memory import STEP_SEQUENCES

BANDWIDTH_SHARE = 0.75
"""Share of the memory's bandwidth that a step of generation reaches."""

_SOURCE = "https://johnmusgrave.com/p/vllm-throughput-latency-sweep-on"


@dataclass(frozen=True)
class ServerRate:
    """A rate of generation.

    Attributes:
        tokens: tokens per second, of all servers together.
        source: where the rate comes from, in words.
        at_once: sequences that a server generates at the same time; None if the rate was measured.
    """

    tokens: float
    source: str
    at_once: int | None = None


def num_servers(memory: MemoryPlan) -> int:
    """Return the number of servers: one for every group of GPUs (`tensor_parallel`)."""
    return max(memory.setup.num_processes // memory.setup.play.tensor_parallel, 1) if memory.setup.on_gpu else 1


def sequences_at_once(memory: MemoryPlan, device: Device) -> int:
    """Return the number of sequences of mean length that a server generates at the same time."""
    lengths, setup = memory.lengths, memory.setup
    assert memory.server is not None
    asked = math.ceil(setup.play.generation_concurrency / num_servers(memory))
    if not device.is_gpu:  # the run makes room for these
        return max(min(asked, memory.at_once(lengths.num_rows)), 1)
    fitting = memory.server.room(device) // math.ceil(lengths.prompt + lengths.generated)
    return max(min(asked, fitting, STEP_SEQUENCES, lengths.num_rows * setup.args.num_generations), 1)


def stated_rate(memory: MemoryPlan, device: Device, speed: Speed) -> ServerRate:
    """Return the rate of a run's servers on a device, computed from its bandwidth and its speed.

    Args:
        memory: memory plan of the run, whose engine is vLLM.
        device: one of the devices.
        speed: its speed on this run.
    """
    server, lengths, parallel = memory.server, memory.lengths, memory.setup.play.tensor_parallel
    assert server is not None
    costs, at_once = ModelCosts(memory.replica), sequences_at_once(memory, device)
    read = server.weights + at_once * (lengths.prompt + lengths.generated / 2) * server.token
    flops = speed.flops * (parallel if device.is_gpu else 1)
    step = read / (BANDWIDTH_SHARE * speed.bandwidth) + costs.forward(at_once, at_once, lengths.prompt) / flops
    prompts = at_once * costs.forward(lengths.prompt, 1, lengths.prompt) / flops
    tokens = at_once * lengths.generated / (lengths.generated * step + prompts)
    source = (
        f"stated, not measured: {counted(at_once, 'sequence')} at once, whose steps read weights, keys and values at "
        f"{BANDWIDTH_SHARE:.0%} of {device.bandwidth:g} GB/s (vLLM 0.23 on an A100: {_SOURCE})"
    )
    return ServerRate(num_servers(memory) * tokens, source, at_once)


def measured_rate(run: RunDirectory | None, device: Device | None, engine: str = VLLM) -> ServerRate | None:
    """Return the rate at which a run's servers have generated so far on this kind of device; None if they have not.

    Args:
        run: directory of the run; None if it is not known.
        device: device to plan for. What was generated on one of another name does not count; None: everything does.
        engine: engine whose servers have generated.
    """
    if run is None or not run.journal.is_file():
        return None
    tokens, seconds, stages = 0.0, 0.0, []
    for entry in Journal(run.journal).entries():
        is_here = device is None or entry.get("device") == device.name
        if is_of(entry, Step.GENERATE) and is_here and entry.get("work_seconds"):
            manifest = _generated_by(run, entry["stage"])
            if manifest.get("engine") == engine:
                tokens, seconds = tokens + float(entry["tokens"]), seconds + float(entry["work_seconds"])
                stages.append(str(entry["stage"]))
    if not tokens or not seconds:
        return None
    return ServerRate(tokens / seconds, f"measured in {', '.join(dict.fromkeys(stages))} of {run.path}")


def _generated_by(run: RunDirectory, stage: str) -> Mapping[str, Any]:
    with contextlib.suppress(GenerationsError):
        return GenerationStore(run.generations(Stage(stage))).manifest()
    return {}
