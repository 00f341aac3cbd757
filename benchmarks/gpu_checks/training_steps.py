"""Time and memory of a training step at Qwen2.5-0.5B's shapes, compared with DPOTrainer as in `benchmarks/training.py`.

Full fine-tuning and LoRA, on pairs with UltraChat-like and GSM8K-like lengths, eight per step unless stated otherwise. D is
DPOTrainer with its defaults, P is DPOTrainer with precomputed log-probabilities of the reference. The arms take turns within
the same minutes, and ratios are computed from these. A first round is not counted: FlexAttention is compiled in it, and
cuDNN's attention, which SDPA prefers on recent GPUs, builds a plan for every shape; all arms except ours share these shapes.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

import training

from .check import Session, largest
from .correctness import flex_attention

ARMS = ("D", "P", "ours")
GATHERED = "gathered rows"
"""Ours without FlexAttention, as on a GPU older than Ampere. It is an arm of the first case only."""


@dataclass(frozen=True)
class Case:
    """A training setup: `full` or `lora`, a dataset whose lengths are imitated, and the number of pairs per step."""

    tuning: str
    data: str
    pairs: int = 8

    @property
    def name(self) -> str:
        return f"{self.tuning}, {self.data}, {self.pairs} pairs"


CASES = (
    Case("full", "ultrachat"),
    Case("lora", "gsm8k-like"),
    Case("full", "ultrachat", 32),
    Case("lora", "ultrachat"),
)
"""Cases in order of importance. A fast GPU waits for kernel launches in small steps of a small model, not in larger ones."""

TARGETS = {"ultrachat": training.TARGETS["ultrachat"], "gsm8k-like": training.TARGETS["gsm8k"]}
ROUNDS = 3
"""Maximum number of rounds in which all arms take their turn; at least one is played, and more if there is time."""


def cases(tiny: bool) -> Sequence[Case]:
    """Return the cases to play."""
    return (Case("full", "ultrachat", 2),) if tiny else CASES


def shape(tiny: bool, size: str = "qwen2.5-0.5b") -> dict[str, Any]:
    """Return the settings of a Qwen2 of a size, or of a tiny one."""
    return training.SIZES["tiny" if tiny else size]


def options(case: Case, tiny: bool) -> argparse.Namespace:
    """Return options as `benchmarks/training.py` would read them from its command line."""
    return argparse.Namespace(
        steps=2 if tiny else 4, batch_size=case.pairs, gradient_checkpointing=True, dataset_name=None
    )


def run(session: Session) -> None:
    """Report ratios of two epochs and of memory, step times, and how often FlexAttention was compiled."""
    training.save_model(shape(session.tiny), session.folder)
    chosen = cases(session.tiny)
    for number, case in enumerate(chosen):
        ends = time.monotonic() + 0.9 * session.seconds_left / (len(chosen) - number)
        bench = bench_of(session, case)
        arms = (*ARMS, GATHERED) if number == 0 else ARMS
        times: dict[str, list[training.Times]] = {arm: [] for arm in arms}
        peaks: dict[str, float] = dict.fromkeys(arms, 0.0)
        before = compilations()
        for arm in arms:
            step = run_arm(bench, arm).step
            session.figure(f"{case.name}: {arm}: a step, while warming up", 1000 * step, "ms")
        session.figure(f"{case.name}: compilations while warming up", compilations() - before)
        before = compilations()
        for played in range(1 if session.tiny else ROUNDS):
            started = time.monotonic()
            for arm in arms:
                peaks[arm] = max(peaks[arm], _round(bench, arm, times[arm], session.on_gpu))
                if played == 0:  # so that these results are not lost if time runs out
                    _report_arm(session, case, arm, times[arm], peaks[arm])
            if 2 * time.monotonic() - started > ends:  # another round would not fit
                break
        _report_ratios(session, case, times, peaks)
        session.figure(f"{case.name}: compilations afterwards", compilations() - before)
    if session.on_gpu:
        _report_kernels(session, chosen[0], bench_of(session, chosen[0]))


def bench_of(session: Session, case: Case) -> training.Bench:
    """Return the bench on which all arms of a case are trained."""
    chosen = options(case, session.tiny)
    pairs = training.pairs_of(case.data, chosen, shape(session.tiny)["vocab_size"])
    return training.Bench(session.folder, case.tuning == "lora", pairs, chosen)


def _round(bench: training.Bench, arm: str, times: list[training.Times], on_gpu: bool) -> float:
    """Play one round of an arm. Return the bytes at the peak, or 0 without a GPU."""
    if on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times.append(run_arm(bench, arm))
    return torch.cuda.max_memory_allocated() if on_gpu else 0.0


def run_arm(bench: training.Bench, arm: str) -> training.Times:
    """Train an arm for a few steps."""
    with flex_attention(arm != GATHERED):
        return bench.run("ours" if arm == GATHERED else arm)


def _report_arm(session: Session, case: Case, arm: str, times: Sequence[training.Times], peak: float) -> None:
    step = statistics.median(one.step for one in times)
    session.figure(f"{case.name}: {arm}: a step", 1000 * step, "ms")
    if times[0].opponent:
        opponent = statistics.median(one.opponent for one in times)
        session.figure(f"{case.name}: {arm}: the opponent's pass", 1000 * opponent, "ms")
    if session.on_gpu:
        session.figure(f"{case.name}: {arm}: peak", peak / 1e9, "GB")


def _report_ratios(
    session: Session, case: Case, times: dict[str, list[training.Times]], peaks: dict[str, float]
) -> None:
    for arm, found in times.items():
        if len(found) > 1:  # including ours: the first report covered only the first round
            _report_arm(session, case, arm, found, peaks[arm])
    over_d, over_p, memory = TARGETS[case.data]
    for arm, at_least in (("D", over_d), ("P", over_p), (GATHERED, None)):
        if arm not in times:
            continue
        pairs = list(zip(times[arm], times["ours"], strict=True))
        ratio = statistics.median(one.two_epochs / own.two_epochs for one, own in pairs)
        # Shapes for a CPU are too small for meaningful speed or memory.
        session.figure(f"{case.name}: two epochs over {arm}", ratio, "x", at_least=None if session.tiny else at_least)
    off = largest(
        abs(a - b)
        for one, own in zip(times["P"], times["ours"], strict=True)
        for a, b in zip(one.losses, own.losses, strict=True)
    )
    session.figure(f"{case.name}: losses differ from P's by", off)
    if not session.on_gpu:
        session.not_here("memory", "there is no GPU; benchmarks/training.py measures a CPU's")
        return
    weights = (session.folder / "model" / "model.safetensors").stat().st_size
    share = (peaks["ours"] - weights) / (peaks["D"] - weights)
    at_most = None if session.tiny else memory
    session.figure(f"{case.name}: memory above the model, of D's", share, at_most=at_most)


class Kernels(TrainerCallback):
    """Profiles the device in the second and third step."""

    def __init__(self) -> None:
        self.profiler: Any = None
        self.steps = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self.profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self.profiler.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.profiler is not None and self.steps < 2:
            torch.cuda.synchronize()
            self.steps += 1
            if self.steps == 2:
                self.profiler.stop()


def _report_kernels(session: Session, case: Case, bench: training.Bench) -> None:
    """Report the share of a step in which the device computes, and the number of kernels; the log lists the kernels."""
    for arm in ("ours", "P"):
        watch = Kernels()
        run_arm(dataclasses.replace(bench, callbacks=[watch]), arm)
        events = watch.profiler.key_averages()
        # Annotations span kernels that are already counted.
        kernels = [one for one in events if one.device_type == DeviceType.CUDA and not one.is_user_annotation]
        busy = sum(event.self_device_time_total for event in kernels) / 1000 / watch.steps
        session.figure(f"{case.name}: {arm}: kernels of a step", busy, "ms")
        launches = sum(event.count for event in kernels) / watch.steps
        session.figure(f"{case.name}: {arm}: kernels launched in a step", launches)
        print(f"---- {case.name}, {arm}: {watch.steps} steps")
        for order in ("self_cuda_time_total", "self_cpu_time_total"):
            print(events.table(sort_by=order, row_limit=15, max_name_column_width=60))


def compilations() -> int:
    """Return the number of graphs that torch.compile has built in this process so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
