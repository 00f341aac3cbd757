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
        part: to which table row it belongs.
        name: what is done to which run.
        check: does it, in a folder that it makes, and says what came of it.
    """

    part: str
    name: str
    check: Callable[[Path], Outcome]


@dataclass(frozen=True)
class Tried:
    """A trial that was made."""

    number: int
    outcome: Outcome


def numbered(parts: Sequence[tuple[int, Sequence[Trial]]]) -> dict[int, Trial]:
    """All trials by their numbers; those of a part begin at its first."""
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
    """Make trials, several at a time, each worker a fork of this process.

    Args:
        trials: by number.
        order: numbers of those to make.
        folder: where their runs are.
        jobs: how many at a time.
        until: reading of `time.monotonic()` after which none is begun.
        keep: whether their folders stay.

    Yields:
        What came of each, as it ends.
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
    """Be a worker, to the end of this process, or of its parent."""
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
            except Exception:  # a mistake of the harness is a fault, too
                outcome = Outcome(Verdict.TRACEBACK, f"the harness itself: {traceback.format_exc()}")
            if not keep:
                shutil.rmtree(here, ignore_errors=True)
            # Short lines into a pipe are whole, whoever else writes.
            os.write(output, json.dumps([number, outcome.verdict, outcome.detail[:1_000]]).encode() + b"\n")
    finally:
        os._exit(0)


def chooser(seed: int, *names: object) -> random.Random:
    """Random numbers that depend on the seed and on what they are for alone."""
    return random.Random(repr((seed, *names)))
