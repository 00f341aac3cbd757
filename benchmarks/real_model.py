"""Self-play on a pretrained model: does it still gain where SFT has reached its best point?

SmolLM2-135M-Instruct (weights dequantised from Q4_1) learns to write the equation of a word problem. SFT on MAWPS and
ASDiv-A's problems stops at its lowest development NLL; from this start (θ_0), self-play and more SFT go on with the same
rows, batch size and learning rates. Every model is measured on the 1,000 problems of SVAMP's challenge set.

    spin-trl fetch smollm2-135m
    PYTHONPATH=. python benchmarks/real_model.py --data FOLDER sft/0 spin/0/1e-5 sft-continued/0/1e-5

The work is done in parts, `ARM/SEED` or `ARM/SEED/LEARNING_RATE`, each in its own process: `base` and `sft`, then
`sft-continued` and the objectives, by their names in TRL (`spin` is `sigmoid`). A part that needs θ_0 of a seed has it made
first. Every measured model is appended to `--results` at once, as one line of JSON; parts whose lines are all there are
skipped. The data are SVAMP's published files (`svamp/train.csv`, `svamp/test.csv`), and for retention, where present,
`gsm8k/test.jsonl` and `mbpp/mbpp.jsonl`. `--tiny` plays everything with a few rows.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_checks.check import append, read
from spin_trl.config.fetched import folder_of

BASE, START, CONTINUED = "base", "sft", "sft-continued"
OBJECTIVES = {"spin": "sigmoid"}
"""Names of arms that TRL calls otherwise."""


@dataclass(frozen=True)
class Part:
    """One part of the work.

    Attributes:
        arm: `base`, `sft`, `sft-continued` or an objective.
        seed: seed of the order of rows and of sampling.
        learning_rate: learning rate as given; empty for the base and the start, which have one of their own.
    """

    arm: str
    seed: int = 0
    learning_rate: str = ""

    @classmethod
    def parse(cls, name: str) -> Part:
        """Parse `ARM/SEED/LEARNING_RATE`."""
        arm, *rest = name.split("/")
        wanted = 0 if arm == BASE else 1 if arm == START else 2
        if len(rest) != wanted:
            raise argparse.ArgumentTypeError(
                f"{name!r} is not {'/'.join(['ARM', 'SEED', 'LEARNING_RATE'][: wanted + 1])}"
            )
        try:
            float(rest[1] if wanted == 2 else 1)
            return cls(arm, int(rest[0] if rest else 0), rest[1] if wanted == 2 else "")
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{name!r}: {error}") from error

    @property
    def name(self) -> str:
        """The name, as given."""
        return "/".join(
            part for part in (self.arm, "" if self.arm == BASE else str(self.seed), self.learning_rate) if part
        )


def done(results: Path, part: Part, tiny: bool) -> bool:
    """Return whether the results hold the last line of a part."""
    lines = read(results)
    return any(line["part"] == part.name and line["last"] and line.get("tiny", False) == tiny for line in lines)


def play(part: Part, options: argparse.Namespace) -> None:
    """Play one part in this process."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from smollm2 import arms, figures

    on_gpu = torch.cuda.is_available()
    sizes = arms.Sizes(options.start_epochs, options.iterations, options.continued_epochs, 3, on_gpu)
    tasks = figures.Tasks.read(
        options.data, training=options.rows, development=options.development, test=options.test,
        retention=4 if options.tiny else 100,
    )  # fmt: skip
    device = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    folder = options.work / part.name.replace("/", "-")
    start, started = options.work / f"{START}-{part.seed}", time.monotonic()

    def report(model: Any, epoch: int, last: bool, **told: Any) -> None:
        model = model.to("cuda" if on_gpu else "cpu")
        measuring = time.monotonic()
        found = figures.measure(
            model, tokenizer, tasks, **({"autocast": figures.bfloat16} if on_gpu else {})
        )  # the same for all arms
        line = {
            "part": part.name, "arm": part.arm, "seed": part.seed, "learning_rate": part.learning_rate, "epoch": epoch,
            "last": last, **told, **found, "rows": len(tasks.training), "seconds": round(measuring - started, 1),
            "measure_seconds": round(time.monotonic() - measuring, 1), "device": device,
            "torch": torch.__version__, "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        append(options.results, line | ({"tiny": True} if options.tiny else {}))

    def loaded(path: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(path, dtype="float32")

    if part.arm == BASE:
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        report(loaded(options.model), 0, True)
    elif part.arm == START:
        told = arms.train_start(options.model, tasks, start, sizes, part.seed)
        tokenizer = AutoTokenizer.from_pretrained(start)
        report(loaded(start), 0, True, **told)
    elif part.arm == CONTINUED:
        tokenizer = AutoTokenizer.from_pretrained(start)
        arms.continue_sft(
            start, tasks, folder, sizes, part.seed, float(part.learning_rate),
            lambda epoch, model: report(loaded(model), epoch, epoch == sizes.continued_epochs),
        )  # fmt: skip
    else:
        tokenizer = AutoTokenizer.from_pretrained(start)
        loss = OBJECTIVES.get(part.arm, part.arm)
        for iteration, model, told in arms.self_play(
            start, tasks, folder, sizes, part.seed, float(part.learning_rate), loss
        ):
            report(loaded(model), iteration, iteration == sizes.iterations, **told)


def launch(parts: Sequence[Part], arguments: Sequence[str], options: argparse.Namespace) -> bool:
    """Play parts in processes of their own, so many at a time; return whether all succeeded."""

    def run(part: Part) -> int:
        log = options.work / f"{part.name.replace('/', '-')}.log"
        command = [sys.executable, __file__, *arguments, "--one", part.name]
        with log.open("a", encoding="utf-8") as output:
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
        print(f"{part.name}: {'finished' if code == 0 else f'exit code {code}, see {log}'}", flush=True)
        return code

    options.work.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.parallel) as pool:
        return not any(pool.map(run, parts))


def main() -> int:
    """Play the parts that are not in the results yet; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", type=Part.parse, metavar="PART", help="ARM/SEED or ARM/SEED/LEARNING_RATE")
    parser.add_argument(
        "--model", type=Path, default=folder_of("smollm2-135m"),
        help="folder of the pretrained model, or its GGUF file; by default what `spin-trl fetch smollm2-135m` got",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="folder with svamp/, and gsm8k/ and mbpp/ if present")
    parser.add_argument(
        "--results", type=Path, default=Path("docs/results/real-model.jsonl"), help="file of the results"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/real-model"), help="folder of models, runs and logs")
    parser.add_argument("--parallel", type=int, default=1, help="parts to play at the same time")
    parser.add_argument("--rows", type=int, help="training problems; by default all")
    parser.add_argument("--development", type=int, default=220, help="development problems")
    parser.add_argument("--test", type=int, default=1000, help="test problems")
    parser.add_argument("--start_epochs", type=int, default=3, help="maximum epochs of SFT for the start")
    parser.add_argument("--iterations", type=int, default=3, help="iterations of self-play, of one epoch each")
    parser.add_argument("--continued_epochs", type=int, default=6, help="epochs of SFT continued")
    parser.add_argument("--tiny", action="store_true", help="a few rows: does everything run?")
    parser.add_argument("--one", type=Part.parse, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if options.tiny:
        options.rows, options.development, options.test = 16, 8, 8
        options.start_epochs, options.iterations, options.continued_epochs = 1, 1, 2
    if options.model.is_file():
        from spin_trl.files import whole_folder
        from spin_trl.models.gguf import convert_gguf

        if not (options.work / "base").exists():
            options.work.mkdir(parents=True, exist_ok=True)
            with whole_folder(options.work / "base") as unfinished:
                convert_gguf(options.model, unfinished)
        options.model = options.work / "base"
    if options.one:
        play(options.one, options)
        return 0
    todo = [part for part in options.parts if not done(options.results, part, options.tiny)]
    seeds = {part.seed for part in todo if part.arm not in (BASE, START)}
    made = {seed for seed in seeds if (options.work / f"{START}-{seed}").exists()}
    first = [part for part in todo if part.arm == START and part.seed not in made]
    first += [Part(START, seed) for seed in sorted(seeds - made - {part.seed for part in first})]
    rest = [part for part in todo if part.arm != START]
    arguments = [argument for argument in sys.argv[1:] if argument not in {part.name for part in options.parts}]
    fine = launch(first, arguments, options) and launch(rest, arguments, options)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
