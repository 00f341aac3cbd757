"""`python -m faults`: disturb small runs, print one table, and exit with 1 if there was a fault."""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import conftest  # noqa: F401 - before any library of Hugging Face is imported
import tiny
from faults import damage, full_disks, kills
from faults.acts import import_everything
from faults.damage import FINISHED, HALF_WAY, State
from faults.outcome import FAULTS, Table
from faults.runs import ANOTHER_FULL, TASKS, Undisturbed
from faults.runs import play as play_task
from faults.trials import Trial, in_turn, numbered
from faults.trials import play as play_trials

KINDS: Final = {
    "kills": (0, kills.PART),
    "writes": (500, kills.WRITES),
    "disks": (1_000, full_disks.PART),
    "damage": (2_000, damage.PART),
}
"""Parts by the names of `--kinds`: the number of their first trial, and their name in the table."""

MINUTES: Final = 20.0


@dataclass(frozen=True)
class Prepared:
    """The resources that all trials need.

    Attributes:
        undisturbed: undisturbed runs.
        states: run directories to damage.
        seconds: seconds that a run takes in a fork.
        start: seconds that the imports have taken.
    """

    undisturbed: list[Undisturbed]
    states: list[State]
    seconds: float
    start: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trials that fit into the time. Return the exit code: 1 after a fault, or if no trial was run."""
    options = _options(arguments)
    started = time.monotonic()
    print(f"Seed {options.seed}.", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="spin-trl-faults-")).resolve()
    try:
        prepared = _prepare(folder, with_damage="damage" in options.kinds)
        print(
            f"{time.monotonic() - started:.0f} s for the imports and {len(prepared.undisturbed)} undisturbed runs of "
            f"{prepared.seconds:.1f} s.",
            flush=True,
        )
        trials = all_trials(options.seed, prepared)
        chosen = [
            number for number in in_turn(trials) if trials[number].part in [KINDS[kind][1] for kind in options.kinds]
        ]
        if options.only is not None:
            if unknown := sorted(set(options.only) - trials.keys()):
                sys.exit(f"With the seed {options.seed} no trial has the number {unknown[0]}.")
            chosen = options.only
            for number in chosen:
                print(f"{trials[number].name}, in {folder / f'trial-{number}'}", flush=True)
        until = started + 60 * options.minutes
        table = _tried(options.seed, trials, chosen, folder, options.jobs, until, keep=options.only is not None)
    finally:
        if options.only is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(
        f"\n{table}\n{_left(trials, chosen, table)}{time.monotonic() - started:.0f} s, of processors {_computed():.0f} s."
    )
    print(f"Seed {options.seed}.")
    return 1 if table.faults or (options.minutes > 0 and not table.counts) else 0


def all_trials(seed: int, prepared: Prepared) -> dict[int, Trial]:
    """Return every trial of a seed, by its number."""
    return numbered(
        [
            (KINDS["kills"][0], kills.trials(seed, prepared.undisturbed, prepared.seconds, prepared.start)),
            (KINDS["writes"][0], kills.at_writes(seed, prepared.undisturbed)),
            (KINDS["disks"][0], full_disks.trials(seed, prepared.undisturbed)),
            (KINDS["damage"][0], damage.trials(seed, prepared.states)),
        ]
    )


def _tried(
    seed: int, trials: dict[int, Trial], chosen: Sequence[int], folder: Path, jobs: int, until: float, keep: bool
) -> Table:
    """Run trials and print their faults, each with the options that repeat it."""
    table = Table()
    for tried in play_trials(trials, chosen, folder, jobs, until, keep):
        trial, outcome = trials[tried.number], tried.outcome
        table.add(trial.part, outcome)
        if outcome.verdict in FAULTS or keep:
            print(
                f"\n--only {tried.number} --seed {seed}: {trial.name}\n  {outcome.verdict}: {outcome.detail}",
                flush=True,
            )
    return table


def _prepare(folder: Path, with_damage: bool) -> Prepared:
    """Import everything, and play the undisturbed runs."""
    started = time.monotonic()
    import_everything()
    start = time.monotonic() - started
    model = tiny.save(folder / "model")
    undisturbed, seconds = {}, []
    for task in TASKS:
        started = time.monotonic()
        undisturbed[task.name] = play_task(task, folder / task.name, model, HALF_WAY)
        seconds.append(time.monotonic() - started)
    states = []
    if with_damage:
        others = {"LoRA": undisturbed["4-bit"], "4-bit": undisturbed["LoRA"]}
        others["full"] = play_task(ANOTHER_FULL, folder / ANOTHER_FULL.name, model)
        for name, run in undisturbed.items():
            folders = {FINISHED: run.folder} | {way: folder / f"{name}, {way}" for way in HALF_WAY}
            states += [State(way, place, run, others[name].folder) for way, place in folders.items()]
    return Prepared([*undisturbed.values()], states, sum(seconds) / len(seconds), start)


def _left(trials: dict[int, Trial], chosen: Sequence[int], table: Table) -> str:
    """Return a message about the trials for which there was no time."""
    left = len(chosen) - sum(counts.total() for counts in table.counts.values())
    return f"The time was too short for {left} of {len(chosen)} trials.\n" if left else ""


def _computed() -> float:
    """Return the CPU seconds of this process and its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _numbers(listed: str) -> list[int]:
    return [int(number) for number in listed.split(",")]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="of all choices; default: a new one")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which no trial is begun")
    parser.add_argument("--kinds", type=lambda names: names.split(","), default=[*KINDS], help=",".join(KINDS))
    parser.add_argument("--only", type=_numbers, help="numbers of trials, with commas; their folders stay")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="trials at a time")
    options = parser.parse_args(arguments)
    if options.only is not None and options.seed is None:
        parser.error("--only needs the --seed that the trial was of")
    if options.seed is None:
        options.seed = random.randrange(1_000_000)
    if options.only is not None:
        options.kinds = [next(kind for kind in reversed(KINDS) if max(options.only) >= KINDS[kind][0])]
    unknown = set(options.kinds) - KINDS.keys()
    if unknown:
        parser.error(f"--kinds: {', '.join(sorted(unknown))}; known are {', '.join(KINDS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
