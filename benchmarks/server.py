"""Generation by servers: the client's own time, with a mock server in a separate process that answers after a fixed time.

The server answers every request after `--seconds` with as many tokens as it asks for, so the wall time can be worked out:
`--requests` / `--in_flight` x `--seconds`. Such requests finish in rounds, and the last round may not be full, so the least
possible time is that of a whole number of rounds. The table compares with both. The CPU time includes building requests and
reading answers.

    python benchmarks/server.py [--requests 10000] [--in_flight 256] [--seconds 2] [--tokens 256]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from completions.mock import MODEL, VOCABULARY
from spin_trl.generation.completions.client import CompletionsClient
from spin_trl.generation.engine import MicroBatch, Sampling

EOS = 2


def work(requests: int, tokens: int) -> Iterator[MicroBatch]:
    """Yield micro-batches of one prompt each."""
    chance = random.Random(0)
    for number in range(requests):
        yield MicroBatch(number, [chance.choices(range(3, VOCABULARY), k=tokens)], seed=number)


def measure(url: str, requests: int, in_flight: int, tokens: int) -> tuple[float, float]:
    """Return the wall time and the CPU time of all requests, in seconds."""
    client = CompletionsClient([url], MODEL, [EOS], concurrency=in_flight)
    client.check()
    sampling = Sampling(1.0, 1.0, 0, tokens, None, num_generations=1, batch_size=1, seed=0)
    wall, cpu = time.perf_counter(), time.process_time()
    answered = sum(
        len(responses[0].ids) == tokens for _, responses in client.generate(work(requests, tokens), sampling)
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if answered != requests:
        raise RuntimeError(f"{answered} of {requests} requests were answered in full")
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--in_flight", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each prompt, and of each response")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    command = [sys.executable, str(Path(__file__).parent / "completions" / "mock.py"), str(args.seconds)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        wall, cpu = measure(f"http://127.0.0.1:{port}", args.requests, args.in_flight, args.tokens)
    finally:
        server.terminate()
        server.wait()
    ideal = args.requests / args.in_flight * args.seconds
    rounds = math.ceil(args.requests / args.in_flight) * args.seconds
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "wall_seconds": wall,
        "over_ideal": wall / ideal,
        "over_rounds": wall / rounds,
        "cpu_ms_per_request": 1000 * cpu / args.requests,
        "server_cpu_ms_per_request": 1000 * (used.ru_utime + used.ru_stime) / args.requests,
    }
    if args.json:
        print(json.dumps(figures))
        return
    formula = f"{args.requests:,} / {args.in_flight} x {args.seconds:g} s"
    table = Table("what", "value")
    table.add_row(f"{args.requests:,} requests of {args.tokens} + {args.tokens} tokens", f"{wall:.2f} s")
    table.add_row(f"compared with {formula} = {ideal:.2f} s", f"{wall / ideal:.4f}")
    table.add_row(f"compared with whole rounds, {rounds:.2f} s", f"{wall / rounds:.4f}")
    table.add_row("CPU time per request", f"{figures['cpu_ms_per_request']:.2f} ms")
    table.add_row("CPU time per request of the server", f"{figures['server_cpu_ms_per_request']:.2f} ms")
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main()
