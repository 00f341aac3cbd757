"""Preparing a large dataset: does memory stay flat, and time linear?

Performs a run's data preparation before the first phase (load, check, key, tokenise, hold out, save to disk) for 20,000 and
for 200,000 synthetic conversations of about 1 kB, each in a separate process. The small dataset is the peer of the large
one: ten times the data may take at most 11 times as long, and 300 MB more at the peak. With `--short`, a row is a line of
some 70 characters, so that a million can be prepared: the fixed memory per row may be at most 300 bytes.

Targets are for the process's own memory. The peak resident size also has the pages of memory-mapped Arrow files, which the
system takes back when it needs memory. Own memory is read from Linux's `/proc`; elsewhere the resident size is compared.

    python benchmarks/data.py [--rows 20000 200000] [--short] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

MOST_EXTRA_MB = 300
"""Maximum additional own memory of the large dataset."""
MOST_BYTES_OF_A_ROW = 300
"""Maximum bytes of own memory per short row."""
MOST_TIMES_AS_LONG = 1.1
"""Maximum time per row of the large dataset, relative to the small one."""


def conversations(count: int, seed: int = 0) -> Iterator[dict[str, list[dict[str, str]]]]:
    """Yield synthetic conversations of two rounds and about 1,000 characters each."""
    rng = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(20_000)]
    for _ in range(count):
        turns = [" ".join(rng.choices(words, k=length)) for length in (15, 40, 15, 60)]
        roles = ("user", "assistant", "user", "assistant")
        yield {"messages": [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]}


def sums(count: int) -> Iterator[dict[str, str]]:
    """Yield synthetic rows of one short question and its answer."""
    for number in range(count):
        yield {"prompt": f"What is {number} plus {number % 7}?", "completion": f"It is {number + number % 7}."}


def write(path: Path, rows: Iterable[Any]) -> None:
    """Write rows as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def prepare(data_path: Path, folder: Path) -> dict[str, float]:
    """Prepare a dataset as a run does, in this process.

    Returns:
        `seconds`, `cpu_seconds`; `start_mb` and `peak_mb`, the process's peak resident size before and after; and `own_mb`,
        its largest own memory.
    """
    from spin_trl import SelfPlayConfig, SPINConfig, StartConfig
    from spin_trl.data.load import load_rows
    from spin_trl.play.prepare import prepare_data
    from spin_trl.run.directory import RunDirectory
    from spin_trl.run.run import Run
    from spin_trl.training.scratch import build_tokenizer

    texts = (message["content"] for row in conversations(500) for message in row["messages"])
    start = StartConfig(start_vocab_size=2048)
    build_tokenizer(texts, start, max_length=2048).save_pretrained(folder / "tokenizer")
    directory = RunDirectory(folder / "run")
    directory.path.mkdir()
    run = Run(
        directory=directory,
        args=SPINConfig(output_dir=str(folder / "run"), use_cpu=True, bf16=False),
        play=SelfPlayConfig(),
        model=str(folder / "tokenizer"),
    )
    start_mb = _peak_mb()
    started, cpu_started = time.perf_counter(), time.process_time()
    with _own_memory() as own:
        prepare_data(run, load_rows(str(data_path)), None)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "start_mb": start_mb,
        "peak_mb": _peak_mb(),
        "own_mb": max(own, default=_peak_mb()),
    }


def measure(rows: Iterable[Any], folder: Path) -> dict[str, float]:
    """Prepare rows in a separate process."""
    folder.mkdir()
    write(folder / "data.jsonl", rows)
    environment = os.environ | {
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, __file__, "--measure", str(folder)]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True, encoding="utf-8")
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found | {"size_mb": (folder / "data.jsonl").stat().st_size / 1e6}


def main() -> int:
    """Measure both sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[20_000, 200_000], metavar="COUNT")
    parser.add_argument("--short", action="store_true", help="rows of one short line")
    parser.add_argument("--folder", type=Path, help="where the data goes (about 2 GB); default: a temporary folder")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(prepare(options.measure / "data.jsonl", options.measure)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        rows = sums if options.short else conversations
        found = {count: measure(rows(count), Path(temporary) / str(count)) for count in options.rows}
    table = Table(title="Preparing rows of a short line" if options.short else "Preparing conversations of about 1 kB")
    for heading in ("rows", "file (MB)", "seconds", "CPU seconds", "own memory (MB)", "peak RSS (MB)", "before (MB)"):
        table.add_column(heading, justify="right")
    for count, figures in found.items():
        seconds = (f"{figures[name]:.1f}" for name in ("seconds", "cpu_seconds"))
        sizes = (f"{figures[name]:.0f}" for name in ("own_mb", "peak_mb", "start_mb"))
        table.add_row(f"{count:,}", f"{figures['size_mb']:.0f}", *seconds, *sizes)
    small, large = (found[count] for count in options.rows)
    more_rows = options.rows[1] / options.rows[0]
    more_mb, more_own_mb = (large[name] - small[name] for name in ("peak_mb", "own_mb"))
    own_per_row, per_row = (1e6 * more / (options.rows[1] - options.rows[0]) for more in (more_own_mb, more_mb))
    target = f"at most {MOST_BYTES_OF_A_ROW}" if options.short else f"less than {MOST_EXTRA_MB} MB"
    console = Console()
    console.print(table)
    console.print(
        f"{more_rows:g} times the rows: {large['seconds'] / small['seconds']:.2f} times the time, "
        f"{large['cpu_seconds'] / small['cpu_seconds']:.2f} times the CPU time (target: at most "
        f"{MOST_TIMES_AS_LONG * more_rows:g}), {more_own_mb:+.0f} MB of own memory, {own_per_row:.0f} bytes per additional "
        f"row (target: {target}); with the pages of mapped files {more_mb:+.0f} MB, {per_row:.0f} bytes per row."
    )
    return 0


@contextlib.contextmanager
def _own_memory() -> Iterator[list[float]]:
    """Collect this process's own memory in MB twenty times per second, without the pages of mapped files (on Linux only)."""
    status, found, ended = Path("/proc/self/status"), [], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("RssAnon"))
            found.append(int(line.split()[1]) * 1024 / 1e6)

    watcher = threading.Thread(target=watch, daemon=True)
    if status.exists():
        watcher.start()
    try:
        yield found
    finally:
        ended.set()
        if watcher.is_alive():
            watcher.join()


def _peak_mb() -> float:
    """Return the peak resident size of this process so far, including memory-mapped files."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


if __name__ == "__main__":
    sys.exit(main())
