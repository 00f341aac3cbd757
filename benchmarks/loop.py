"""The loop's overhead: the time of a run in addition to its actual work.

Plays the quickstart in a separate process, and compares its wall time with the work recorded in the journal: sampling,
training and evaluation in each phase (`work_seconds`). The rest is overhead: importing the stack, preparing data, loading
and saving models, building trainers, writing files, drawing plots. It does not depend on the amount of work, so a longer run
of the same task (`--times` multiplies the epochs of the start and of every iteration) shows how its share shrinks.

    python benchmarks/loop.py [--times 5] [recipe settings, like --num_iterations 2]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from spin_trl.run.recipe import read_recipe

RECIPE = "quickstart"


def play(run_dir: Path, settings: list[str]) -> tuple[float, float, list[dict[str, Any]]]:
    """Play the quickstart.

    Returns:
        Start time, end time (both as `time.time()`), and the journal.
    """
    began = time.time()
    command = [sys.executable, "-m", "spin_trl", "run", RECIPE, "--run_dir", str(run_dir), *settings]
    with (run_dir.parent / "output.txt").open("w", encoding="utf-8") as output:
        subprocess.run(command, check=True, stdout=output, stderr=subprocess.STDOUT)
    ended = time.time()
    return (
        began,
        ended,
        [json.loads(line) for line in (run_dir / "journal.jsonl").read_text(encoding="utf-8").splitlines()],
    )


def own_time(began: float, ended: float, journal: list[dict[str, Any]]) -> dict[str, float]:
    """Break down the overhead, in seconds.

    Args:
        began, ended: start and end time of the process.
        journal: entries with `time` (when a step finished), `seconds` (how long it took) and `work_seconds`.

    Returns:
        Seconds by activity; their sum is the wall time minus the work.
    """
    own: dict[str, float] = defaultdict(float)
    previous = began
    for entry in journal:
        seconds = entry.get("seconds", 0.0)
        between = entry["time"] - seconds - previous
        own["imports, and preparing the data" if entry is journal[0] else "between phases"] += between
        name = (
            "baseline: train"
            if entry["stage"].startswith("baseline") and entry["phase"] == "train"
            else entry["phase"]
        )
        if "work_seconds" in entry:
            own[f"in {name}"] += seconds - entry["work_seconds"]
        previous = entry["time"]
    own["end of the process"] = ended - previous
    return own


def longer(times: float) -> list[str]:
    """Return settings with which the quickstart does this many times the work."""
    recipe = read_recipe(RECIPE)
    epochs = {
        "start_num_epochs": recipe.start.start_num_epochs,
        "num_train_epochs": recipe.args.num_train_epochs,
    }
    return [part for name, value in epochs.items() for part in (f"--{name}", f"{value * times:g}")]


def main() -> int:
    """Play the quickstart, and a longer run if asked to, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=float, help="also play a run with this many times the epochs")
    parser.add_argument("--no_short", action="store_true", help="skip the quickstart itself")
    options, settings = parser.parse_known_args()
    runs = {} if options.no_short else {"quickstart": settings}
    if options.times is not None:
        runs[f"{options.times:g} times the epochs"] = [*longer(options.times), *settings]
    console = Console()
    for name, extra in runs.items():
        with tempfile.TemporaryDirectory() as folder:
            began, ended, journal = play(Path(folder) / RECIPE, extra)
        wall, own = ended - began, own_time(began, ended, journal)
        table = Table(title=f"{name}: {wall:.0f} s", caption="target: 15 % of the quickstart, 3 % of ten minutes")
        table.add_column("time")
        table.add_column("seconds", justify="right")
        table.add_column("% of all", justify="right")
        table.add_row("work", f"{wall - sum(own.values()):.1f}", f"{100 * (1 - sum(own.values()) / wall):.1f}")
        table.add_row("own", f"{sum(own.values()):.1f}", f"{100 * sum(own.values()) / wall:.1f}", style="bold")
        for what, seconds in sorted(own.items(), key=lambda item: -item[1]):
            table.add_row(f"  {what}", f"{seconds:.1f}", f"{100 * seconds / wall:.1f}")
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
