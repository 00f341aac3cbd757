"""GPUs by name and a run's speed on them: all assumptions behind the planned hours, in one place.

Memory, compute and bandwidth are from NVIDIA's data sheets: T4 (2019), V100 (2020), A10 (2021), A100 40 and 80 GB (2021),
L4 and L40S (2023), RTX 3090 and 4090 (Ampere and Ada architecture papers), H100 SXM (2023), H200 SXM (2024). TFLOP/s are
for dense float16 products accumulated in float32, without sparsity.

The share of these figures that a run reaches is assumed, not measured, each time with a reason. Compared with what two
papers report, and with one training step on an H100 (benchmarks/README.md), the assumptions are right within a factor of
two. A measured rate on the command line replaces them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import psutil
import torch

from ..errors import PlanError, nearest
from .model import PlannedModel
from .setup import Setup


@dataclass(frozen=True)
class Device:
    """A device to plan a run for.

    Attributes:
        name: name on the command line.
        memory: GiB that PyTorch sees: less than on the label, which counts in 10^9 bytes and includes the driver's share.
        tflops: throughput of dense half-precision products, in 10^12 operations per second.
        bandwidth: memory bandwidth, in 10^9 bytes per second.
        has_bf16: whether it supports bfloat16.
        is_gpu: False for the CPU of this machine.
    """

    name: str
    memory: float
    tflops: float
    bandwidth: float
    has_bf16: bool = True
    is_gpu: bool = True


DEVICES = {
    device.name: device
    for device in (
        Device("t4", 14.6, 65, 320, has_bf16=False),
        Device("v100-16", 15.8, 125, 900, has_bf16=False),
        Device("v100-32", 31.7, 125, 900, has_bf16=False),
        Device("a10", 22.1, 125, 600),
        Device("l4", 22.0, 121, 300),
        Device("rtx-3090", 23.6, 71, 936),
        Device("rtx-4090", 23.5, 165, 1008),
        Device("a100-40", 39.4, 312, 1555),
        Device("l40s", 44.4, 362, 864),
        Device("a100-80", 79.1, 312, 2039),
        Device("h100", 79.1, 989, 3350),
        Device("h200", 139.7, 989, 4800),
    )
}
"""Devices by name, the smallest first."""

_OTHER_NAMES = {"a10g": "a10", "a100": "a100-80", "v100": "v100-16", "3090": "rtx-3090", "4090": "rtx-4090"}

CPU_TFLOPS_PER_CORE = 0.05
"""Approximate throughput of float32 products on a core with 256-bit vectors; it only affects hours on a CPU."""

CPU_BANDWIDTH = 20.0
"""Approximate memory bandwidth of a CPU, in 10^9 bytes per second."""

UTILISATION = 0.45
"""Share of the data sheet's throughput that training reaches with the widest models: 35 to 45 % is reported for large
language models on A100s with activation checkpointing."""

HALF_WIDTH = 1024
"""Width of a model that reaches half of that: with smaller products, a GPU waits for kernel launches."""

HOPPER = 0.6
"""Factor on an A100's share for an H100, which computes three times as fast but has only 1.6 times the bandwidth."""

QUANTISED = 0.7
"""Further factor for quantised weights, which are unpacked for every use."""

ON_CPU = 0.6
"""Share of its throughput that a CPU reaches."""

SECONDS_A_LAYER = 1.0e-3
"""Seconds per token and layer in addition to reading the weights: transformers' `generate` launches some 15 kernels per
layer from Python, which takes 25 to 30 ms for 24 to 32 layers."""

SECONDS_A_LAYER_ON_CPU = 0.25e-3
"""The same on a CPU, which has no kernels to launch."""

WITH_ADAPTER = 1.6
"""Factor on that with an adapter, which adds two products to every layer that has one."""

WITH_QUANTISATION = 1.3
"""Factor on that with quantised weights."""


def device_named(name: str) -> Device:
    """Return a GPU by name, in any of the usual spellings: `A100-80`, `a100_80gb`, `RTX 4090`.

    Raises:
        PlanError: if it is not known; the message lists the known ones.
    """
    plain = re.sub(r"(?<=\d)\s*g(i?b)?$", "", re.sub(r"[\s_]+", "-", name.strip().lower()))
    plain = _OTHER_NAMES.get(plain, plain)
    if plain not in DEVICES:
        raise PlanError(f"`--gpu` is {name!r}{nearest(plain, DEVICES)} Known GPUs: {', '.join(DEVICES)}.")
    return DEVICES[plain]


def own_gpu() -> Device | None:
    """Return the GPU of this machine with its actual memory and the known speed of its kind, or None if there is none."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    has_bf16 = torch.cuda.get_device_capability(0) >= (8, 0)
    return like(properties.name, properties.total_memory / 2**30, has_bf16=has_bf16)


def own_gpus() -> int:
    """Return the number of GPUs of this machine."""
    return torch.cuda.device_count()


def like(name: str, memory: float, *, has_bf16: bool = True) -> Device:
    """Return a GPU by its driver's name, with the known speed of its kind.

    Args:
        name: driver's name, such as `NVIDIA A100-SXM4-80GB`; an unknown kind gets the speed of the slowest known GPU with
            as much memory.
        memory: GiB that PyTorch sees.
        has_bf16: whether it supports bfloat16.
    """
    words = f"-{re.sub(r'[^a-z0-9]+', '-', name.lower())}-"
    known = list(DEVICES.values())
    kinds = [one for one in known if f"-{one.name.split('-')[-1 if 'rtx' in one.name else 0]}-" in words]
    if kinds:  # a kind may have several sizes: take the nearest
        nearest_kind = min(kinds, key=lambda one: abs(one.memory - memory))
    else:
        large = [one for one in known if one.memory >= 0.8 * memory]
        nearest_kind = min(large, key=lambda one: one.tflops, default=DEVICES["h200"])
    return Device(name, memory, nearest_kind.tflops, nearest_kind.bandwidth, has_bf16)


def this_cpu() -> Device:
    """Return the CPU of this machine, with all of its memory."""
    tflops = torch.get_num_threads() * CPU_TFLOPS_PER_CORE
    return Device("CPU", psutil.virtual_memory().total / 2**30, tflops, CPU_BANDWIDTH, is_gpu=False)


@dataclass(frozen=True)
class Speed:
    """The speed of one device on a model.

    Attributes:
        flops: operations per second in training and prefill.
        step_seconds: seconds per generation step of a micro-batch, in addition to reading memory.
        bandwidth: bytes per second.
        training_tokens: tokens trained on per second, as given by the user, or None.
        generation_tokens: tokens sampled per second, as given by the user, or None. With `engine: server`, by all servers.
        served_tokens: tokens sampled per second by all servers together; None with another engine, or if it is not known.
        assumed: assumptions in words, for display.
    """

    flops: float
    step_seconds: float
    bandwidth: float
    training_tokens: float | None = None
    generation_tokens: float | None = None
    assumed: str = ""
    served_tokens: float | None = None


def utilisation(device: Device, width: int, *, quantised: bool = False) -> float:
    """Return the share of a device's throughput that training reaches.

    Args:
        device: device that trains.
        width: hidden size of the model.
        quantised: whether its weights are quantised.
    """
    if not device.is_gpu:
        return ON_CPU
    share = UTILISATION * width / (width + HALF_WIDTH)
    return share * (HOPPER if device.tflops > 500 else 1) * (QUANTISED if quantised else 1)


def speed_of(
    device: Device,
    setup: Setup,
    model: PlannedModel,
    training_tokens: float | None = None,
    generation_tokens: float | None = None,
    *,
    generates: bool = True,
) -> Speed:
    """Return the speed of a device on a model; rates given by the user take precedence.

    Args:
        device: the device.
        setup: setup of the run.
        model: model as used in generation.
        training_tokens: tokens trained on per second, as given by the user.
        generation_tokens: tokens sampled per second, as given by the user.
        generates: whether the time of generation is estimated by this speed, and not by the rate of servers.
    """
    config = model.base.config.get_text_config()
    quantised = setup.quantization is not None
    share = utilisation(device, config.hidden_size, quantised=quantised)
    slower = (WITH_ADAPTER if setup.peft is not None else 1) * (
        WITH_QUANTISATION if quantised and device.is_gpu else 1
    )
    step = (SECONDS_A_LAYER if device.is_gpu else SECONDS_A_LAYER_ON_CPU) * slower * config.num_hidden_layers
    assumed = []
    if training_tokens is None:
        assumed.append(f"training reaches {share:.0%} of {device.tflops:g} TFLOP/s")
    if generation_tokens is None and generates:
        assumed.append(
            f"a generation step takes {1000 * step:.0f} ms plus reading all weights at {device.bandwidth:g} GB/s"
        )
    flops, bandwidth = share * device.tflops * 1e12, device.bandwidth * 1e9
    return Speed(flops, step, bandwidth, training_tokens, generation_tokens, "; ".join(assumed))
