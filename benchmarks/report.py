"""The report of a large run: is it written in seconds, and does it stay small?

Creates a synthetic run directory with a start, three iterations and a baseline arm of three, each with the same number of
samples of about 1 kB and with figures per prompt. `spin-trl report` runs in a separate process, imports included. The peer
is the unavoidable part: a process that only reads the same files of samples and figures, line by line.

    python benchmarks/report.py [--samples 10000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

MOST_SECONDS = 10
MOST_MB = 5

STAGES = ["start", *(f"iteration-{t}" for t in range(3)), *(f"baseline/sft/iteration-{t}" for t in range(3))]

FIGURES = (
    "nll", "win_rate", "gap", "kl", "logratio/real", "logratio/generated", "logps/real", "logps/generated",
    "real_below_generated",
    "length_real", "length_generated", "empty", "truncated", "identical", "degeneration/repetition", "degeneration/distinct",
    "degeneration/odd_characters", "degeneration/copies",
)  # fmt: skip
"""All figures, so that every plot is drawn."""

READ = """
import json, pathlib, sys
for path in pathlib.Path(sys.argv[1]).rglob("*.json*"):
    with path.open() as file:
        for row in file if path.suffix == ".jsonl" else [file.read()]:
            json.loads(row)
"""


def make_run(folder: Path, samples: int) -> None:
    """Write the directory of a run that was never played."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(5_000)]

    def text(length: int) -> str:
        return " ".join(rng.choices(words, k=length))

    settings = {
        "num_iterations": 3,
        "metric_for_best_iteration": "score",
        "baseline": "sft",
        "scorer": ["exact_match"],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (folder / "best.json").write_text(json.dumps({"stage": "iteration-2"}), encoding="utf-8")
    rows = [{"key": f"{number:020x}", "prompt": text(40), "real": text(60)} for number in range(samples)]
    journal = []
    for number, stage in enumerate(STAGES):
        held_out = folder / stage / "held-out"
        held_out.mkdir(parents=True)
        scores = {row["key"]: float(rng.random() < 0.3 + 0.05 * number) for row in rows}
        with (folder / stage / "samples.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                line = {**row, "generated": text(60), "finish_reason": "eos", "score": scores[row["key"]]}
                file.write(json.dumps(line) + "\n")
        values = {
            "score": scores,
            "nll": {row["key"]: rng.gauss(60, 5) for row in rows},
            "real_tokens": {row["key"]: 60.0 for row in rows},
        }
        (held_out / "values.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
        score = sum(scores.values()) / samples
        figures = {"held_out": samples, "score": score, "score_low": score - 0.01, "score_high": score + 0.01}
        figures |= dict.fromkeys(FIGURES, 0.1 + 0.01 * number)
        histogram = {"edges": list(range(41)), "real": rng.choices(range(500), k=40), "generated": [samples / 40] * 40}
        (folder / stage / "histograms.json").write_text(
            json.dumps(histogram if stage.startswith("iteration") else {}), encoding="utf-8"
        )
        (folder / stage / "metrics.json").write_text(json.dumps(figures), encoding="utf-8")
        journal.append({"phase": "evaluate", "stage": stage, "time": 1.0 * number, "seconds": 1.0})
    (folder / "journal.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in journal), encoding="utf-8")


def seconds_of(*command: str) -> tuple[float, float]:
    """Run a Python process; return its wall time and CPU time in seconds."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Create the run and its report, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_run(folder, options.samples)
        read_mb = sum(path.stat().st_size for path in folder.rglob("*.json*")) / 1e6
        reports, peers = [], []
        for _ in range(options.repeats):
            peers.append(seconds_of("-c", READ, str(folder)))
            reports.append(seconds_of("-m", "spin_trl", "report", str(folder)))
        report_mb = (folder / "report.html").stat().st_size / 1e6
    table = Table(title=f"The report of {len(STAGES)} stages with {options.samples:,} samples each ({read_mb:.0f} MB)")
    for heading in ("", "seconds, best", "worst", "of CPU, best", "MB"):
        table.add_column(heading, justify="right" if heading else "left")
    best = {}
    for name, found, size in (("spin-trl report", reports, f"{report_mb:.2f}"), ("reading the same files", peers, "")):
        clock, processor = zip(*found, strict=True)
        best[name] = min(processor)
        table.add_row(name, f"{min(clock):.2f}", f"{max(clock):.2f}", f"{min(processor):.2f}", size)
    console = Console()
    console.print(table)
    console.print(
        f"{best['spin-trl report'] / best['reading the same files']:.1f} times the CPU time of reading (targets: less than "
        f"{MOST_SECONDS} s and {MOST_MB} MB)."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
