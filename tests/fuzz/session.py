"""A session of the fuzzer: inputs by their seeds, in several processes, until they are done or the time is over."""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

from messages import names

from . import inputs, surroundings
from .judge import Kind, Outcome, import_all, judge, run_apart
from .materials import SCRATCH, Materials
from .parts import settings_of, write_recipe
from .table import Tried, add_line, failures_by_cause, table


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make fuzz", description="Give `spin-trl` what no user should have to bring."
    )
    parser.add_argument("--seed", type=int, help="seed of the first input; the others follow it (any; it is printed)")
    parser.add_argument("--number", type=int, default=10_000, help="how many inputs (10,000)")
    parser.add_argument("--minutes", type=float, default=30.0, help="after how many no further one is begun (30)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a core)")
    parser.add_argument("--kind", choices=list(inputs.KINDS), help="inputs of this kind only")
    parser.add_argument(
        "--only", type=int, nargs="+", metavar="SEED", help="repeat these inputs, and show what they print"
    )
    parser.add_argument("--keep", metavar="FOLDER", help="leave inputs that failed here")
    parser.add_argument("--log", metavar="FILE", help="write here what was said to every input, a line of JSON each")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Try inputs and print the outcomes. Return 1 if one of them failed."""
    options = _options(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spin-trl-fuzz-") as name:
        folder = Path(name)
        os.chmod(folder, 0o755)  # a user without rights also reads an input
        materials = prepared(folder)
        if options.only:
            return _repeat(options.only, folder, materials, options.keep)
        seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**9)
        print(
            f"Seed {seed}: {options.number:,} inputs, {options.minutes:g} minutes at most, {options.jobs} processes.",
            flush=True,
        )
        seeds = _seeds(seed, options.number, options.kind)
        tried = []
        end = started + 60 * options.minutes
        is_broken = False
        try:
            for one in _tried(seeds, folder, materials, options.jobs, end, options.keep):
                tried.append(one)
                if options.log:
                    add_line(Path(options.log), one)
                if one.outcome.is_failure:
                    print(f"{one.seed}: {one.outcome.kind}: {one.outcome.cause}", flush=True)
                if len(tried) % 500 == 0:
                    print(f"... {len(tried):,} inputs after {time.monotonic() - started:.0f} s", flush=True)
        except KeyboardInterrupt:
            print("Interrupted.")
        except Exception:  # the fuzzer's own fault; the outcomes of earlier inputs are shown
            traceback.print_exc()
            is_broken = True
    print(failures_by_cause(tried), end="")
    print(table(tried))
    minutes = (time.monotonic() - started) / 60
    print(f"Seed {seed}, {len(tried):,} inputs in {minutes:.1f} minutes: {len(tried) / minutes:,.0f} a minute.")
    return int(is_broken or any(one.outcome.is_failure for one in tried))


def prepared(folder: Path) -> Materials:
    """Return the materials for inputs, with everything imported that commands import."""

    def command(arguments: list[str], where: Path, before: object) -> int:
        return run_apart(arguments, where, before if callable(before) else None)[0]

    materials = Materials(folder, command)
    trial = folder / "trial"
    trial.mkdir()
    scratch = settings_of(materials, **SCRATCH)
    del scratch["model_name_or_path"]
    (trial / "scratch").mkdir()
    write_recipe(trial / "scratch", {**scratch, "run_dir": "scratch/run"})
    recipe = write_recipe(trial, settings_of(materials, held_out_fraction=0.3))
    import_all(trial, ["start", "scratch/small.yaml"], ["plan", recipe], ["run", recipe], ["card", "run"])
    return materials


def _seeds(first: int, number: int, kind: str | None) -> Iterator[int]:
    """Yield seeds from the first one on, of one kind if it is given."""
    seed = first
    while number:
        if kind is None or inputs.kind_of(seed) == kind:
            number -= 1
            yield seed
        seed += 1


def try_one(seed: int, folder: Path, materials: Materials, keep: str | None = None) -> Tried:
    """Generate the input of a seed, give it to the command, and remove it."""
    inside = folder / f"input {seed}" / "it"
    inside.mkdir(parents=True)
    try:
        made = inputs.make(seed, inside, materials)
        if keep:
            shutil.copytree(inside, Path(keep, str(seed)), symlinks=True, ignore=_odd_files, dirs_exist_ok=True)
        before = surroundings.SURROUNDINGS.get(made.surroundings or "")
        outcome = judge(made.arguments, inside, as_nobody=made.as_nobody, before=before)
        if made.surroundings == surroundings.WITHOUT_A_READER and outcome.code == 1 and outcome.kind == Kind.EXIT:
            outcome = dataclasses.replace(outcome, kind=Kind.REFUSED)  # without a reader, a silent exit is normal
        diverged = names(outcome.message, "diverged", "step")  # any learning rate above 0 is tried
        if (
            outcome.kind == Kind.REFUSED
            and outcome.code == 1
            and made.arguments[0] == "start"
            and is_mistake(seed)
            and not diverged
        ):
            outcome = dataclasses.replace(outcome, kind=Kind.EXIT, cause="exit code 1 for what a user has to change")
        if made.digest is not None:
            outcome = compared(outcome, inside / "run", made.digest)
        if keep and not outcome.is_failure:
            shutil.rmtree(Path(keep, str(seed)))
        return Tried(seed, inputs.kind_of(seed), made, outcome)
    finally:
        shutil.rmtree(inside.parent, ignore_errors=True)


def is_mistake(seed: int) -> bool:
    """Return whether a refusal of this input is the user's mistake to fix: exit code 2, not 1."""
    return inputs.kind_of(seed) in ("data files", "recipes", "settings", "configurations")


def compared(outcome: Outcome, run: Path, digest: str) -> Outcome:
    """Return the outcome of a valid input: it must be accepted, and its rows must be the same as elsewhere."""
    if outcome.is_failure:
        return outcome
    if outcome.kind == Kind.REFUSED:
        return dataclasses.replace(outcome, kind=Kind.WRONG, cause="what is in order is refused")
    entries = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    found = next(entry["dataset"] for entry in entries if entry["phase"] == "prepare")
    return outcome if found == digest else dataclasses.replace(outcome, kind=Kind.WRONG, cause="other rows are read")


def _odd_files(folder: str, names: list[str]) -> list[str]:
    """Return entries that can't be copied: pipes and sockets."""
    paths = [Path(folder, name) for name in names]
    return [path.name for path in paths if not (path.is_symlink() or path.is_file() or path.is_dir())]


_shared: tuple[Path, Materials, str | None, float]


def _try_in_worker(seed: int) -> Tried | None:
    folder, materials, keep, end = _shared
    return try_one(seed, folder, materials, keep) if time.monotonic() < end else None


def _tried(
    seeds: Iterable[int], folder: Path, materials: Materials, jobs: int, end: float, keep: str | None
) -> Iterator[Tried]:
    """Yield the outcomes of inputs as they finish."""
    global _shared
    _shared = folder, materials, keep, end
    _ = materials.played, materials.earlier  # created once, before the processes fork
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for one in pool.imap_unordered(_try_in_worker, seeds, chunksize=4):
            if one is not None:
                yield one


def _repeat(seeds: list[int], folder: Path, materials: Materials, keep: str | None) -> int:
    failed = 0
    for seed in seeds:
        one = try_one(seed, folder, materials, keep)
        failed += one.outcome.is_failure
        print(f"{seed} ({one.kind}): {one.given.what}\n$ spin-trl {' '.join(map(ascii, one.given.arguments))}"[:2_000])
        print(one.outcome.printed[-20_000:].encode("utf-8", "replace").decode())
        print(f"{one.outcome.kind} {one.outcome.cause} (exit code {one.outcome.code}, {one.outcome.seconds:.1f} s)")
    sys.stdout.flush()
    return int(bool(failed))
