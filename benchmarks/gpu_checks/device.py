"""The device and its copy and product throughput, which are the upper limits for the other figures."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

from .check import Session

PACKAGES = ("torch", "triton", "trl", "transformers", "peft", "accelerate", "datasets", "bitsandbytes", "flash-attn")


def run(session: Session) -> None:
    """Report names and versions, memory, bandwidth, and the throughput of bfloat16 products."""
    session.note("versions", {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}})
    if not session.on_gpu:
        session.note("device", f"CPU, {torch.get_num_threads()} thread(s)")
        session.not_here("bandwidth and products", "there is no GPU")
        return
    properties = torch.cuda.get_device_properties(0)
    session.note(
        "device", f"{properties.name}, CUDA {torch.version.cuda}, capability {properties.major}.{properties.minor}"
    )
    session.figure("memory", properties.total_memory / 2**30, "GiB")
    session.figure("bandwidth", bandwidth() / 1e9, "GB/s")
    width = 8192
    one, other = (torch.randn(width, width, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    session.figure("bf16 products", 2 * width**3 / seconds_of(lambda: one @ other) / 1e12, "TFLOP/s")


def bandwidth() -> float:
    """Return the bytes per second that a copy on the device reads and writes."""
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source))


def seconds_of(work: Callable[[], object], repeats: int = 10) -> float:
    """Return the median seconds of work on the device, by the device's clock."""
    times = []
    for number in range(repeats + 3):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        work()
        ended.record()
        torch.cuda.synchronize()
        if number >= 3:
            times.append(started.elapsed_time(ended) / 1000)
    return statistics.median(times)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
