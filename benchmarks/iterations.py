"""Thirty iterations in one process: do memory, open files and the time per iteration stay flat?

Plays the quickstart's task with a few rows, so that the loop's overhead dominates an iteration. The last ten iterations are
compared with the first ten: by the least memory, because pages and cards are written while the next iteration plays, so what
they take comes and goes; by the median of open files and of CPU time.

    python benchmarks/iterations.py [--iterations 30] [recipe settings]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from spin_trl.config.recipe import find_file
from spin_trl.run.journal import Journal, Step

RECIPE = "quickstart"
SMALL = {
    "max_rows": 64,
    "start_num_epochs": 1,
    "num_train_epochs": 1,
    "held_out_max": 8,
    "loss_type": "sigmoid",
    "baseline": None,
    "baseline_label_smoothing": [0.0],
    "stop_at_plateau": False,
}
COMPARED = 10
"""Number of iterations compared at each end."""
MOST_MORE_MEMORY, MOST_AS_LONG = 1.05, 1.2


def play(recipe: Path, settings: list[str]) -> list[dict[str, float]]:
    """Play in this process.

    Returns:
        For every iteration: `mb` of memory and number of open `files` when it is done, and CPU `seconds` since the previous
        one.
    """
    from spin_trl.cli import main as run_command

    found: list[dict[str, float]] = []
    began, append = time.process_time(), Journal.append

    def watched(journal: Journal, step: Step, stage: str, **figures: Any) -> None:
        nonlocal began
        append(journal, step, stage, **figures)
        if step is Step.EVALUATE and stage.startswith("iteration"):
            now = time.process_time()
            found.append({"mb": _resident_mb(), "files": len(os.listdir("/proc/self/fd")), "seconds": now - began})
            began = now

    setattr(Journal, "append", watched)  # noqa: B010  # mypy takes no assignment to a method
    if code := run_command(["run", str(recipe), *settings]):
        sys.exit(code)
    return found


def _resident_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def main() -> int:
    """Play, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options, settings = parser.parse_known_args()
    if options.measure is not None:
        found = play(options.measure / "recipe.yaml", settings)
        (options.measure / "found.json").write_text(json.dumps(found), encoding="utf-8")
        return 0
    console = Console()
    if not Path("/proc/self/status").is_file():
        console.print("Not measured: this system has no /proc/self/status.")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe = yaml.safe_load(find_file(RECIPE).read_text(encoding="utf-8"))
        recipe |= SMALL | {"num_iterations": options.iterations}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        command = [sys.executable, __file__, "--measure", str(folder), "--run_dir", str(folder / RECIPE), *settings]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True, encoding="utf-8"
        )
        if done.returncode:
            console.print(done.stdout[-2000:], markup=False)
            return done.returncode
        found = json.loads((folder / "found.json").read_text(encoding="utf-8"))[
            1:
        ]  # the first one includes imports and building θ_0
    size = min(COMPARED, len(found) // 2)
    table = Table(title=f"{options.iterations} iterations (the first is left out)")
    for heading in ("", f"first {size}", f"last {size}", "ratio", "target"):
        table.add_column(heading, justify="right" if heading else "left")
    targets = {"mb": f"{MOST_MORE_MEMORY:g}", "files": "1", "seconds": f"{MOST_AS_LONG:g}"}
    names = {"mb": "memory (MB)", "files": "open files", "seconds": "CPU seconds per iteration"}
    for name, target in targets.items():
        typical = min if name == "mb" else statistics.median
        first, last = (typical([one[name] for one in part]) for part in (found[:size], found[-size:]))
        table.add_row(names[name], f"{first:.1f}", f"{last:.1f}", f"{last / first:.3f}", f"at most {target}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
