"""GPUs by name, and how fast a run is on them: what hours rest on, in one place.

What they hold, compute and read is from NVIDIA's data sheets: T4 (2019), V100 (2020), A10 (2021), A100 40 and 80 GB (2021),
L4 and L40S (2023), RTX 3090 and 4090 (Ampere and Ada architecture papers), H100 SXM (2023), H200 SXM (2024). TFLOP/s are
those of dense float16 products with sums in float32, without sparsity.

How much of that a run reaches is assumed, not measured, each with its reason. Set against what two papers report, and
against one training step on an H100 (benchmarks/README.md), the assumptions are right within a factor of two; a measured
rate on the command line takes their place.
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
    """What a run is planned for.

    Attributes:
        name: as on the command line.
        memory: GiB that PyTorch sees: less than on the label, which counts in 10^9 bytes, and what the driver keeps.
        tflops: dense products in half precision, 10^12 operations a second.
        bandwidth: of memory, 10^9 bytes a second.
        has_bf16: whether it computes in bfloat16.
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
"""By name, the smallest first."""

_OTHER_NAMES = {"a10g": "a10", "a100": "a100-80", "v100": "v100-16", "3090": "rtx-3090", "4090": "rtx-4090"}

CPU_TFLOPS_PER_CORE = 0.05
"""float32 products on a core with 256-bit vectors, roughly: it decides only hours on a CPU."""

CPU_BANDWIDTH = 20.0
"""10^9 bytes a second that a CPU reads, roughly."""

UTILISATION = 0.45
"""Share of the data sheet's products that training reaches in the widest models: 35 to 45 % is what is reported of large
language models on A100s with activation checkpointing."""

HALF_WIDTH = 1024
"""Width of a model that reaches half of that: smaller products leave a GPU waiting for its kernels' launches."""

HOPPER = 0.6
"""Of an A100's share: an H100 computes three times as much, but reads only 1.6 times as much from its memory."""

QUANTISED = 0.7
"""Of that, where weights are unpacked for every use."""

ON_CPU = 0.6
"""Share of its products that a CPU reaches."""

SECONDS_A_LAYER = 1.0e-3
"""That a token takes in a layer beside reading its weights: transformers' `generate` launches some 15 kernels a layer from
Python, 25 to 30 ms in 24 to 32 layers."""

SECONDS_A_LAYER_ON_CPU = 0.25e-3
"""The same on a CPU, which launches nothing."""

WITH_ADAPTER = 1.6
"""Times that, with an adapter beside the weights: two more products at every layer that has one."""

WITH_QUANTISATION = 1.3
"""Times that, with quantised weights."""


def device_named(name: str) -> Device:
    """A GPU by its name, in whichever spelling: `A100-80`, `a100_80gb`, `RTX 4090`.

    Raises:
        PlanError: it is not known; the message names those that are.
    """
    plain = re.sub(r"(?<=\d)\s*g(i?b)?$", "", re.sub(r"[\s_]+", "-", name.strip().lower()))
    plain = _OTHER_NAMES.get(plain, plain)
    if plain not in DEVICES:
        raise PlanError(f"`--gpu` is {name!r}{nearest(plain, DEVICES)} Known are: {', '.join(DEVICES)}.")
    return DEVICES[plain]


def own_gpu() -> Device | None:
    """The GPU of this machine, or None: its own memory, and what is known of its kind."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    has_bf16 = torch.cuda.get_device_capability(0) >= (8, 0)
    return like(properties.name, properties.total_memory / 2**30, has_bf16=has_bf16)


def like(name: str, memory: float, *, has_bf16: bool = True) -> Device:
    """A GPU as its driver names it, with what is known of its kind.

    Args:
        name: such as `NVIDIA A100-SXM4-80GB`. Of an unknown kind, the slowest that holds as much is taken.
        memory: GiB that PyTorch sees.
        has_bf16: whether it computes in bfloat16.
    """
    words = f"-{re.sub(r'[^a-z0-9]+', '-', name.lower())}-"
    known = list(DEVICES.values())
    kinds = [one for one in known if f"-{one.name.split('-')[-1 if 'rtx' in one.name else 0]}-" in words]
    if kinds:  # a kind may have several sizes: the nearest is taken
        nearest_kind = min(kinds, key=lambda one: abs(one.memory - memory))
    else:
        large = [one for one in known if one.memory >= 0.8 * memory]
        nearest_kind = min(large, key=lambda one: one.tflops, default=DEVICES["h200"])
    return Device(name, memory, nearest_kind.tflops, nearest_kind.bandwidth, has_bf16)


def this_cpu() -> Device:
    """The CPU of this machine, with all of its memory."""
    tflops = torch.get_num_threads() * CPU_TFLOPS_PER_CORE
    return Device("CPU", psutil.virtual_memory().total / 2**30, tflops, CPU_BANDWIDTH, is_gpu=False)


@dataclass(frozen=True)
class Speed:
    """How fast one device works on a model.

    Attributes:
        flops: operations a second in training, and where many tokens are run at once.
        step_seconds: of a token of a micro-batch of answers, beside what is read.
        bandwidth: bytes a second.
        training_tokens: forward and backward a second, as given by the user, or None.
        generation_tokens: sampled a second, as given by the user, or None.
        assumed: what of this is assumed, for people.
    """

    flops: float
    step_seconds: float
    bandwidth: float
    training_tokens: float | None = None
    generation_tokens: float | None = None
    assumed: str = ""


def utilisation(device: Device, width: int, *, quantised: bool = False) -> float:
    """Share of a device's products that training reaches.

    Args:
        device: which.
        width: of the model: its hidden size.
        quantised: whether its weights are.
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
) -> Speed:
    """How fast a device works on a model, unless the user knows better."""
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
    if generation_tokens is None:
        assumed.append(
            f"a step of generation takes {1000 * step:.0f} ms, and reading all weights at {device.bandwidth:g} GB/s"
        )
    flops, bandwidth = share * device.tflops * 1e12, device.bandwidth * 1e9
    return Speed(flops, step, bandwidth, training_tokens, generation_tokens, "; ".join(assumed))
