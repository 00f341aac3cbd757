"""Trials, and the processes that share them."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .outcome import Outcome, Verdict, with_traceback


@dataclass(frozen=True)
class Trial:
    """A disturbance and its check.

    Attributes:
        part: table row that it belongs to.
        name: what is done to which run.
        check: function that runs it in a new folder and returns its outcome.
    """

    part: str
    name: str
    check: Callable[[Path], Outcome]


@dataclass(frozen=True)
class Tried:
    """A trial that was run."""

    number: int
    outcome: Outcome


def numbered(parts: Sequence[tuple[int, Sequence[Trial]]]) -> dict[int, Trial]:
    """Number all trials; those of a part begin at its first number."""
    return {first + index: trial for first, trials in parts for index, trial in enumerate(trials)}


def in_turn(trials: dict[int, Trial]) -> list[int]:
    """Return numbers in an order that treats all parts equally: when time is up, the same share of each has been tried."""
    parts: dict[str, list[int]] = {}
    for number in sorted(trials):
        parts.setdefault(trials[number].part, []).append(number)
    places = [(index / len(numbers), number) for numbers in parts.values() for index, number in enumerate(numbers)]
    return [number for _, number in sorted(places)]


def play(
    trials: dict[int, Trial], order: Sequence[int], folder: Path, jobs: int, until: float, keep: bool = False
) -> Iterator[Tried]:
    """Run trials, several at a time, each worker a fork of this process.

    Args:
        trials: trials by number.
        order: numbers of those to run.
        folder: folder for their runs.
        jobs: number of workers.
        until: reading of `time.monotonic()` after which none is started.
        keep: whether to keep their folders.

    Yields:
        The outcome of each, as it ends.
    """
    context = multiprocessing.get_context("fork")
    following = context.Value("i", 0)
    reading, writing = os.pipe()
    workers, parent = [], os.getpid()
    for _ in range(jobs):
        worker = os.fork()
        if worker == 0:
            os.close(reading)
            _work(trials, order, folder, following, writing, until, keep, parent)
        workers.append(worker)
    os.close(writing)
    with open(reading, encoding="utf-8") as lines:
        for line in lines:
            number, verdict, detail = json.loads(line)
            yield Tried(number, Outcome(Verdict(verdict), detail))
    for worker in workers:
        os.waitpid(worker, 0)


def _work(
    trials: dict[int, Trial],
    order: Sequence[int],
    folder: Path,
    following: multiprocessing.sharedctypes.Synchronized[int],
    output: int,
    until: float,
    keep: bool,
    parent: int,
) -> None:
    """Act as a worker, to the end of this process, or of its parent."""
    try:
        while time.monotonic() < until and os.getppid() == parent:
            with following.get_lock():
                place = following.value
                following.value += 1
            if place >= len(order):
                break
            number = order[place]
            here = folder / f"trial-{number}"
            try:
                outcome = with_traceback(here, trials[number].check(here))
            except Exception:  # a mistake of the harness is also a fault
                outcome = Outcome(Verdict.TRACEBACK, f"the harness itself: {traceback.format_exc()}")
            if not keep:
                shutil.rmtree(here, ignore_errors=True)
            # Short writes to a pipe are atomic, whoever else writes.
            os.write(output, json.dumps([number, outcome.verdict, outcome.detail[:1_000]]).encode() + b"\n")
    finally:
        os._exit(0)


def chooser(seed: int, *names: object) -> random.Random:
    """Return random numbers that depend only on the seed and on their purpose."""
    return random.Random(repr((seed, *names)))
