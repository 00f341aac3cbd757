"""The cost of checksums: as a share of the phases that write files, and when a large run is opened again.

Plays the quickstart and times all hashing between the lines of its journal. Then saves prepared rows of 200,000
conversations of about 1 kB and verifies their checksums, as a run does when it is opened; the peer is just reading the same
files.

    python benchmarks/checksums.py [--rows 200000] [recipe settings, like --num_iterations 2]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, disable_progress_bars
from rich.console import Console
from rich.table import Table

from spin_trl import files
from spin_trl.data.arrow import save_rows
from spin_trl.models import saving
from spin_trl.run.directory import RunDirectory
from spin_trl.run.integrity import damage, recorded
from spin_trl.run.journal import Journal, Step

RECIPE = "quickstart"
MOST_OF_A_PHASE = 2.0
"""Maximum per cent of a phase's time."""
MOST_SECONDS_TO_OPEN = 2.0
IDS_OF_A_ROW = 300


class Stopwatch:
    """Times the hashing of files between one line of the journal and the next."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.by_phase: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def sha256(self, content: Any = b"") -> _Timed:
        """Return a timed `hashlib.sha256`."""
        return _Timed(self, content)

    def appended(self, entry: dict[str, Any]) -> None:
        """Assign the hashing since the previous entry to the step that has finished."""
        if "seconds" in entry:
            found = self.by_phase[entry["phase"]]
            found[0] += self.seconds
            found[1] += entry["seconds"]
        self.seconds = 0.0


class _Timed:
    def __init__(self, watch: Stopwatch, content: Any) -> None:
        self._hasher, self._watch = hashlib.sha256(), watch
        self.hexdigest = self._hasher.hexdigest
        self.update(content)

    def update(self, content: Any) -> None:
        began = time.perf_counter()
        self._hasher.update(content)
        self._watch.seconds += time.perf_counter() - began


def play(settings: list[str]) -> dict[str, list[float]]:
    """Play the quickstart in this process.

    Returns:
        For each phase, the seconds spent on hashing and the total seconds.
    """
    from spin_trl.cli import main as run_command

    watch, append = Stopwatch(), Journal.append

    def watched(journal: Journal, step: Step, stage: str, **figures: Any) -> None:
        append(journal, step, stage, **figures)
        watch.appended({"phase": str(step), **figures})

    shim = SimpleNamespace(sha256=watch.sha256)
    for module in (files, saving):
        module.hashlib = shim  # type: ignore[attr-defined]
    setattr(Journal, "append", watched)  # noqa: B010  # mypy takes no assignment to a method
    if code := run_command(["run", RECIPE, *settings]):
        sys.exit(code)
    return dict(watch.by_phase)


def open_rows(count: int, folder: Path) -> tuple[float, float, float, float]:
    """Save prepared rows, and verify their checksums.

    Returns:
        Seconds that verification takes, its CPU seconds, the CPU seconds of reading the same files, and their size in GB.
    """
    rng = np.random.default_rng(0)
    offsets = np.arange(count + 1) * IDS_OF_A_ROW
    ids = pa.ListArray.from_arrays(offsets, rng.integers(0, 2048, offsets[-1]))
    text = pa.array([f"{number:020x}" * 50 for number in range(count)])
    rows = Dataset(pa.table({"real_ids": ids, "real": text}))
    directory = RunDirectory(folder / "run")
    directory.path.mkdir()
    directory.own("data")
    saved = {path.name: checksum for path, checksum in save_rows(rows, directory.train_rows).items()}
    entry = {"phase": Step.PREPARE, "stage": "data", "files": recorded("data/train", saved)}
    began, cpu_began = time.perf_counter(), time.process_time()
    found = list(damage(directory, entry))
    seconds, cpu_opened = time.perf_counter() - began, time.process_time()
    assert not found, found
    size = 0
    for path in directory.train_rows.iterdir():
        with path.open("rb", buffering=0) as file:
            while block := file.read(files.BLOCK):
                size += len(block)
    return seconds, cpu_opened - cpu_began, time.process_time() - cpu_opened, size / 1e9


def main() -> int:
    """Play the quickstart, open the rows, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options, settings = parser.parse_known_args()
    if options.measure is not None:
        options.measure.write_text(json.dumps(play(settings)), encoding="utf-8")
        return 0
    console = Console()
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [
            sys.executable,
            __file__,
            "--measure",
            str(folder / "found.json"),
            "--run_dir",
            str(folder / RECIPE),
        ]
        done = subprocess.run(
            [*command, *settings], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
        )
        if done.returncode:
            console.print(done.stdout[-2000:], markup=False)
            return done.returncode
        found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
        seconds, cpu_seconds, reading, size = open_rows(options.rows, folder)
    table = Table(title=f"Hashing in {RECIPE}", caption=f"target: at most {MOST_OF_A_PHASE:g} % of each phase")
    for heading in ("phase", "seconds", "hashing (ms)", "% of the phase"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase, (hashing, all_of_it) in found.items():
        table.add_row(phase, f"{all_of_it:.1f}", f"{1000 * hashing:.1f}", f"{100 * hashing / all_of_it:.3f}")
    console.print(table)
    console.print(
        f"{options.rows:,} prepared rows ({size:.2f} GB) opened in {seconds:.2f} s (target: {MOST_SECONDS_TO_OPEN:g} s), "
        f"{cpu_seconds:.2f} s of CPU time, {cpu_seconds / reading:.1f} times that of reading them."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
