"""Generation of many prompts: CPU time per token with 20,480 prompts, compared with 1,024, and memory per prompt.

A tiny Llama with random weights answers prompts of equal length, so a token takes the model the same time in both, and what
is left is bookkeeping: micro-batches, shards, the store. `--engine instant` replaces the model by an engine that answers at
once and doesn't repeat, whose responses are kept one by one until their shard is complete, as those of servers are. Both
numbers of prompts are measured in turn, each in a process of its own; the table shows the medians.

    python benchmarks/prompts.py [--engine instant] [--prompts 1024 20480] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from spin_trl.generation.answer import Asked, generate
from spin_trl.generation.engine import Engine, FinishedBatches, MicroBatch, Response, Sampling
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.generation.store import GenerationStore

VOCABULARY, LENGTH, NEW_TOKENS, BATCH_SIZE = 512, 16, 16, 32


class Instant:
    """An engine that answers at once, in the order in which it is asked."""

    name = "instant"
    version = "1"
    repeats = False

    def generate(self, batches: Iterable[MicroBatch], sampling: Sampling) -> FinishedBatches:
        """Answer every prompt with the same tokens."""
        for batch in batches:
            yield batch.number, [Response([3] * NEW_TOKENS, "length") for _ in batch.prompts]


def engine_of(name: str) -> Engine:
    """Return the engine of an option; the model never ends a response."""
    if name == "instant":
        return Instant()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    )
    return TransformersEngine(LlamaForCausalLM(config).eval(), [], 0)


def measure(engine: Engine, count: int, folder: Path) -> dict[str, float]:
    """Return CPU seconds per token and bytes per prompt of generating so many prompts into a new store."""
    rows = Dataset.from_dict(
        {
            "key": [f"{number:020x}" for number in range(count)],
            "prompt_ids": [[3 + number % 500, *range(3, 2 + LENGTH)] for number in range(count)],
        }
    )
    sampling = Sampling(1.0, 1.0, 0, NEW_TOKENS, None, num_generations=1, batch_size=BATCH_SIZE, seed=0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, cpu = _peak(), time.process_time()
    generate(engine, rows, GenerationStore(folder), sampling, Asked("d", "t", "m"), iteration=0, disable_progress=True)
    cpu = time.process_time() - cpu
    more = _peak() - before
    tokens = sum(GenerationStore(folder).table()["length"].to_pylist())
    if tokens != count * NEW_TOKENS:
        raise RuntimeError(f"{tokens} tokens were generated instead of {count * NEW_TOKENS}")
    return {"microseconds_per_token": 1e6 * cpu / tokens, "bytes_per_prompt": more / count}


def _peak() -> int:
    """Return the largest number of bytes in memory since the peak was last reset."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def apart(engine: str, count: int) -> dict[str, float]:
    """Measure in a process of its own, after a small warm-up."""
    command = [sys.executable, __file__, "--engine", engine, "--prompts", str(count), "--alone"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["transformers", "instant"], default="transformers")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1_024, 20_480])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            engine = engine_of(args.engine)
            measure(engine, BATCH_SIZE, Path(folder, "warm-up"))
            print(json.dumps(measure(engine, args.prompts[0], Path(folder, "generations"))))
        return
    found: dict[int, list[dict[str, float]]] = {count: [] for count in args.prompts}
    for _ in range(args.repeats):
        for count in args.prompts:
            found[count].append(apart(args.engine, count))
    table = Table("prompts", "CPU time per token", "ratio", "memory per prompt")
    first = None
    for count, measured in found.items():
        took, memory = (
            statistics.median(one[name] for one in measured) for name in ("microseconds_per_token", "bytes_per_prompt")
        )
        first = first or took
        table.add_row(f"{count:,}", f"{took:.1f} µs", f"{took / first:.3f}", f"{memory:,.0f} bytes")
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main()
