"""Self-play on a pretrained model: does it still gain where SFT has reached its best point?

SmolLM2-135M-Instruct (weights dequantised from Q4_1) learns to write the equation of a word problem. SFT on MAWPS and
ASDiv-A's problems stops at its lowest development NLL; from this start (θ_0), self-play and more SFT go on with the same
rows, batch size and learning rates, and more SFT gets as much compute as self-play (SPIN, all iterations): 3 x tokens
trained on + tokens scored + prefilled + sampled. Models are measured on the 1,000 problems of SVAMP's challenge set.

    spin-trl fetch smollm2-135m
    PYTHONPATH=. python benchmarks/real_model.py --data FOLDER --size pilot            # two cores, two to three hours
    PYTHONPATH=. python benchmarks/real_model.py --data FOLDER --size full --parallel 4      # one GPU
    PYTHONPATH=. python benchmarks/real_model.py --size pilot --table                 # what has been measured so far

The work is done in parts, `ARM/SEED` or `ARM/SEED/LEARNING_RATE`, each in its own process: `base` and `sft`, then the
objectives, by their names in TRL (`spin` is `sigmoid`), `sft-continued`, and `sft-dft` (the same with the loss of DFT).
Without names, all parts of the size are played, the most important first. A part that needs θ_0 of a seed has it made first,
and SFT continued waits for SPIN of its seed. Every measured model is appended to `--results` at once, as one line of JSON;
parts whose lines are all there are skipped, so the same command resumes, also on another machine. The data are SVAMP's
published files (`svamp/train.csv`, `svamp/test.csv`), and for retention, where present, `gsm8k/test.jsonl` and
`mbpp/mbpp.jsonl`. `--size tiny` (or `--tiny`) plays everything with a few rows.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_checks.check import append, read
from smollm2.sizes import (
    BASE,
    BUDGET,
    CONTINUED,
    OBJECTIVES,
    SIZES,
    START,
    Part,
    Size,
    budget_of,
    is_done,
    parts_of,
)
from smollm2.table import table_of
from spin_trl.config.fetched import folder_of

RESULTS = Path("docs/results/real-model.jsonl")


def play(part: Part, size: Size, options: argparse.Namespace) -> None:
    """Play one part in this process, and report each of its models."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from smollm2 import arms, figures

    on_gpu = torch.cuda.is_available()
    tasks = figures.Tasks.read(options.data, size)
    folder = options.work / part.name.replace("/", "-")
    start, started = options.work / f"{START}-{part.seed}", time.monotonic()
    lines = read(options.results)

    def report(path: Path, point: Any, last: bool, **told: Any) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
        model.to("cuda" if on_gpu else "cpu")
        tokenizer = AutoTokenizer.from_pretrained(options.model if part.arm == BASE else start)
        measuring = time.monotonic()
        # The same for all arms.
        found = figures.measure(model, tokenizer, tasks, **({"autocast": figures.bfloat16} if on_gpu else {}))
        line = {
            "size": size.name, "part": part.name, "arm": part.arm, "seed": part.seed,
            "learning_rate": part.learning_rate, "point": point, "last": last, **told, **found,
            "rows": len(tasks.training), "seconds": round(measuring - started, 1),
            "measure_seconds": round(time.monotonic() - measuring, 1), "device": device(on_gpu),
            "torch": torch.__version__, "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        append(options.results, line)

    rest = (folder, size, on_gpu, part.seed)
    if part.arm == BASE:
        report(options.model, 0, True)
    elif part.arm == START:
        told = arms.train_start(options.model, tasks, start, size, on_gpu, part.seed)
        if not is_done(lines, part, size):  # else other parts only need its weights
            report(start, 0, True, **told)
    elif part.arm in CONTINUED:
        budget = budget_of(lines, part, size)
        if budget is None:
            raise SystemExit(f"{part.name} gets as much compute as `{BUDGET}` with seed {part.seed}: play that first.")
        points = list(
            arms.continue_sft(
                start, tasks, folder, on_gpu, part.seed, float(part.learning_rate), CONTINUED[part.arm], budget
            )
        )
        for name, path, told in sorted(points, key=lambda point: point[0] == "last"):
            report(path, name, name == "last", **told)
    else:
        loss = OBJECTIVES.get(part.arm, part.arm)
        for iteration, path, told in arms.self_play(start, tasks, *rest, float(part.learning_rate), loss):
            if size.measures_each or iteration == size.iterations:
                report(path, iteration, iteration == size.iterations, **told)


def device(on_gpu: bool) -> str:
    """Return the name of the GPU, or the number of CPU cores."""
    import torch

    if on_gpu:
        return torch.cuda.get_device_name()
    return f"{len(os.sched_getaffinity(0))} CPU cores, {platform.processor() or platform.machine()}"


def launch(parts: Sequence[Part], options: argparse.Namespace) -> bool:
    """Play parts in separate processes, up to a number at a time; return whether all succeeded."""

    def run(part: Part) -> int:
        log = options.work / f"{part.name.replace('/', '-')}.log"
        names = ("model", "data", "results", "work", "size")
        settings = [text for name in names for text in (f"--{name}", str(getattr(options, name)))]
        with log.open("a", encoding="utf-8") as output:
            code = subprocess.run(
                [sys.executable, __file__, *settings, "--one", part.name],
                stdout=output, stderr=subprocess.STDOUT, check=False,
            ).returncode  # fmt: skip
        print(f"{part.name}: {'finished' if code == 0 else f'exit code {code}, see {log}'}", flush=True)
        return code

    with ThreadPoolExecutor(options.parallel) as pool:
        return not any(pool.map(run, parts))


def rounds_of(todo: Sequence[Part], has_start: Callable[[int], bool]) -> list[list[Part]]:
    """Return parts in rounds: those of a round need only what earlier rounds made.

    Args:
        todo: parts to play, in order.
        has_start: whether θ_0 of a seed is there.
    """
    seeds = {part.seed for part in todo if part.arm not in (BASE, START)}
    rounds = [[part for part in todo if part.arm == START]]
    rounds[0] += [
        Part(START, seed) for seed in sorted(seeds) if not has_start(seed) and Part(START, seed) not in rounds[0]
    ]
    rounds.append([])
    for part in sorted((part for part in todo if part.arm != START), key=lambda part: part.arm != BUDGET):
        if part.arm in CONTINUED and any(earlier.arm == BUDGET for earlier in rounds[-1]):
            rounds.append([])
        rounds[-1].append(part)
    return [parts for parts in rounds if parts]


def play_all(options: argparse.Namespace, size: Size) -> bool:
    """Play the parts that are not in the results yet, and those that become known by them; return whether all succeeded."""
    tried: set[Part] = set()
    while True:
        lines = read(options.results)
        named = options.parts or parts_of(size, lines)
        todo = [part for part in named if part not in tried and not is_done(lines, part, size)]
        if not todo:
            return all(is_done(lines, part, size) for part in tried)
        if not options.parts:  # the seeds after the first, one at a time
            todo = [part for part in todo if part.seed == min(one.seed for one in todo)]
        tried |= set(todo)
        for parts in rounds_of(todo, lambda seed: (options.work / f"{START}-{seed}").exists()):
            if not launch(parts, options):
                return False


def converted(options: argparse.Namespace) -> Path:
    """Return the folder of the pretrained model; a GGUF file is converted once."""
    if not options.model.is_file():
        return Path(options.model)
    from spin_trl.files import whole_folder
    from spin_trl.models.gguf import convert_gguf

    folder = Path(options.work / "base")
    if not folder.exists():
        with whole_folder(folder) as unfinished:
            convert_gguf(options.model, unfinished)
    return folder


def main() -> int:
    """Play the parts, or print the table; return 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", type=Part.parse, metavar="PART", help="ARM/SEED or ARM/SEED/LEARNING_RATE")
    parser.add_argument("--size", choices=sorted(SIZES), default="pilot", help="how much is trained and measured")
    parser.add_argument(
        "--tiny", dest="size", action="store_const", const="tiny", help="a few rows: does everything run?"
    )
    parser.add_argument("--table", action="store_true", help="print the table of what has been measured at this size")
    parser.add_argument(
        "--model", type=Path, default=folder_of("smollm2-135m"),
        help="folder of the pretrained model, or its GGUF file; by default what `spin-trl fetch smollm2-135m` got",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, help="folder with svamp/, and gsm8k/ and mbpp/ if present")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results")
    parser.add_argument("--work", type=Path, help="folder of models, runs and logs; by default runs/real-model-SIZE")
    parser.add_argument("--parallel", type=int, default=1, help="parts to play at the same time")
    parser.add_argument("--one", type=Part.parse, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = SIZES[options.size]
    if options.table:
        print(table_of(read(options.results), size))
        return 0
    if options.data is None:
        parser.error("--data is needed: the folder with svamp/.")
    options.work = options.work or Path("runs") / f"real-model-{size.name}"
    for folder in (options.work, options.results.parent):
        folder.mkdir(parents=True, exist_ok=True)
    options.model = converted(options)
    if options.one:
        play(options.one, size, options)
        return 0
    return 0 if play_all(options, size) else 1


if __name__ == "__main__":
    sys.exit(main())
