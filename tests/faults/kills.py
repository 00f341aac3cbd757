"""A run is ended by a signal at any moment, and the same command resumes it to the same bytes.

Kills come at random operations and times, and for every kind of write before it, in its middle and after it.
"""

from __future__ import annotations

import itertools
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .acts import Ended, Interrupt, forked, whole
from .outcome import Outcome, Results, Verdict, lost, manners, of_going_on, results_of
from .runs import COMMAND, Undisturbed, go_on
from .trials import Trial, chooser
from .writes import Operation, watch

PART: Final = "kills"
WRITES: Final = "kills at writes"
COUNT: Final = 200
WHOLE_PROCESSES: Final = 10
SIGNALS: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

_INTERRUPTED: Final = 130


@dataclass(frozen=True)
class Moment:
    """When a run is killed.

    Attributes:
        kind: kind of the write; with None, operations of all kinds count.
        number: number of the operation of this kind, from 1.
        middle_at: file size at which it is killed in the middle of the write; None for the operation itself.
        after: whether it is killed at the operation that follows, of any kind.
    """

    kind: str | None
    number: int
    middle_at: int | None = None
    after: bool = False


def trials(seed: int, undisturbed: Sequence[Undisturbed], seconds: float, start: float) -> list[Trial]:
    """Return kills at random, ten of them of whole processes.

    Args:
        seed: random seed.
        undisturbed: runs to kill.
        seconds: seconds that one of them takes in a fork.
        start: seconds that a process needs to import everything.
    """
    found = []
    for number in range(COUNT - WHOLE_PROCESSES):
        chosen = chooser(seed, PART, number)
        run, signal_number = chosen.choice(undisturbed), chosen.choice(SIGNALS)
        if number % 2:
            found.append(_by_time(run, signal_number, chosen.uniform(0, seconds)))
        else:
            moment = Moment(None, chosen.randint(1, len(run.operations)))
            found.append(_by_operation(PART, run, signal_number, moment, f"at operation {moment.number}"))
    for number, trial in enumerate(_whole_processes(seed, undisturbed, seconds, start)):
        found.insert(number * COUNT // WHOLE_PROCESSES, trial)  # they take longest, so they are spread over all trials
    return found


def at_writes(seed: int, undisturbed: Sequence[Undisturbed]) -> list[Trial]:
    """Return kills before, in the middle of and after a write of every kind, each in one of the runs that has it."""
    kinds = sorted({operation.kind for run in undisturbed for operation in run.operations})
    found = []
    for when, kind in itertools.product(("before", "in the middle of", "after"), kinds):
        chosen = chooser(seed, PART, when, kind)
        run = chosen.choice([run for run in undisturbed if any(one.kind == kind for one in run.operations)])
        first, last = chosen.choice(_writes(run.operations, kind))
        signal_number = chosen.choice(SIGNALS)
        if when == "after":
            moment = Moment(kind, last, after=True)
        elif when == "before":
            moment = Moment(kind, first)
        else:
            moment, signal_number = Moment(kind, first, middle_at=_middle(chosen, run, kind)), signal.SIGXFSZ
        found.append(_by_operation(WRITES, run, signal_number, moment, f"{when} {kind} ({first} to {last})"))
    chooser(seed, WRITES).shuffle(found)
    return found


def killer(folder: Path, signal_number: int, moment: Moment) -> Callable[[], None]:
    """Return a function that makes the calling process kill itself at the given moment."""

    def before() -> None:
        count, due = 0, False

        def tell(operation: Operation) -> None:
            nonlocal count, due
            if due:
                os.kill(os.getpid(), signal_number)
                due = False
            elif moment.kind in (None, operation.kind):
                count += 1
                if count != moment.number:
                    return
                if moment.after:
                    due = True
                elif moment.middle_at is None:
                    os.kill(os.getpid(), signal_number)
                else:
                    _end_when_a_file_has_come_to(moment.middle_at + _size(folder / operation.path))

        watch(folder, tell)

    return before


def _end_when_a_file_has_come_to(size: int) -> None:
    """Let the kernel end this process in the middle of a write, whichever library makes it, as SIGKILL would."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _writes(operations: Sequence[Operation], kind: str) -> list[tuple[int, int]]:
    """Return the first and last operation of each write of a kind, as numbers among those of the kind, from 1."""
    found, count = [], 0
    for is_of_kind, group in itertools.groupby(operations, lambda operation: operation.kind == kind):
        size = len(list(group))
        if is_of_kind:
            found.append((count + 1, count + size))
            count += size
    return found


def _middle(chosen: random.Random, run: Undisturbed, kind: str) -> int:
    """Return a size that files of this kind exceed."""
    sizes = [operation.size for operation in run.operations if operation.kind == kind and operation.size]
    return chosen.randint(1, max(max(sizes, default=60) - 1, 1))


def _by_operation(part: str, run: Undisturbed, signal_number: int, moment: Moment, when: str) -> Trial:
    def check(folder: Path) -> Outcome:
        run.task.lay_out(folder, run.model)
        return _gone_on(folder, run, forked(folder, COMMAND, killer(folder, signal_number, moment)))

    return Trial(part, f"{run.task.name}: {signal.Signals(signal_number).name} {when}", check)


def _by_time(run: Undisturbed, signal_number: int, after: float) -> Trial:
    def check(folder: Path) -> Outcome:
        run.task.lay_out(folder, run.model)
        return _gone_on(folder, run, forked(folder, COMMAND, interrupt=Interrupt(signal_number, after)))

    return Trial(PART, f"{run.task.name}: {signal.Signals(signal_number).name} after {after:.2f} s", check)


def _whole_processes(seed: int, undisturbed: Sequence[Undisturbed], seconds: float, start: float) -> Iterator[Trial]:
    for number in range(WHOLE_PROCESSES):
        chosen = chooser(seed, PART, "whole", number)
        run, signal_number = chosen.choice(undisturbed), chosen.choice(SIGNALS)
        # Occasionally during the imports, before anything of the command runs.
        after = chosen.uniform(0, start) if number % 4 == 0 else chosen.uniform(start, start + 2 * seconds)
        name = f"{run.task.name}, a separate process: {signal.Signals(signal_number).name} after {after:.2f} s"
        yield Trial(PART, name, _check_whole(run, Interrupt(signal_number, after)))


def _check_whole(run: Undisturbed, interrupt: Interrupt) -> Callable[[Path], Outcome]:
    def check(folder: Path) -> Outcome:
        run.task.lay_out(folder, run.model)
        return _gone_on(folder, run, whole(folder, COMMAND, interrupt), lambda: whole(folder, COMMAND))

    return check


def _gone_on(folder: Path, run: Undisturbed, ended: Ended, again: Callable[[], Ended] | None = None) -> Outcome:
    """Return the verdict after a kill, when the same command has been called again."""
    killed = (-signal.SIGKILL, -signal.SIGXFSZ, -signal.SIGTERM, -signal.SIGINT, _INTERRUPTED)
    wrong = manners(ended, (0, *killed))
    if wrong is not None:
        return Outcome(Verdict.TRACEBACK, f"the kill: {wrong}")
    before = results_of(folder)
    outcome = of_going_on(folder, again() if again is not None else go_on(folder), run.results)
    if outcome.verdict is Verdict.SAME:
        return outcome
    gone = lost(before, results_of(folder), _kept(run.results))
    return Outcome(outcome.verdict, outcome.detail + (f"; lost: {', '.join(gone[:4])}" if gone else ""))


def _kept(results: Results) -> Results:
    """Return results that no longer grow once they are there."""
    return {
        path: digest for path, digest in results.items() if not path.endswith(("journal.jsonl", "best", "best.json"))
    }
