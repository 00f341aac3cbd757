"""GPUs by name: what they hold, how fast they compute and read, and whether they know bfloat16.

From NVIDIA's data sheets: T4 (2019), V100 (2020), A10 (2021), A100 40 and 80 GB (2021), L4 and L40S (2023), RTX 3090
and 4090 (Ampere and Ada architecture papers), H100 SXM (2023), H200 SXM (2024). TFLOP/s are those of dense float16
products with sums in float32, without sparsity.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

import psutil
import torch

from ..errors import PlanError


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


def device_named(name: str) -> Device:
    """A GPU by its name, in whichever spelling: `A100-80`, `a100_80gb`, `RTX 4090`.

    Raises:
        PlanError: it is not known; the message names those that are.
    """
    plain = re.sub(r"(?<=\d)\s*g(i?b)?$", "", re.sub(r"[\s_]+", "-", name.strip().lower()))
    plain = _OTHER_NAMES.get(plain, plain)
    if plain in DEVICES:
        return DEVICES[plain]
    near = difflib.get_close_matches(plain, DEVICES, n=1)
    raise PlanError(
        f"`--gpu` is {name!r}{f'; did you mean {near[0]!r}?' if near else ', which is not known.'} Known are: "
        f"{', '.join(DEVICES)}."
    )


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
    words = re.sub(r"[^a-z0-9]+", "-", name.lower())
    kinds = [
        device
        for device in DEVICES.values()
        if f"-{device.name.split('-')[-1 if 'rtx' in device.name else 0]}-" in f"-{words}-"
    ]
    # A kind may have several sizes: the nearest is taken.
    nearest = min(
        kinds or [device for device in DEVICES.values() if device.memory >= 0.8 * memory] or [DEVICES["h200"]],
        key=lambda device: abs(device.memory - memory) if kinds else device.tflops,
    )
    return Device(name, memory, nearest.tflops, nearest.bandwidth, has_bf16)


def this_cpu() -> Device:
    """The CPU of this machine, with all of its memory."""
    cores = torch.get_num_threads()
    return Device(
        "CPU", psutil.virtual_memory().total / 2**30, cores * CPU_TFLOPS_PER_CORE, CPU_BANDWIDTH, True, False
    )
