"""From a write of every kind on, nothing fits on the disk any more, not even while the error is written.

There is space again when the same command resumes the run, which must end with the same bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from . import no_space
from .acts import forked
from .outcome import Outcome, Verdict, manners, of_going_on
from .runs import COMMAND, Undisturbed, go_on
from .trials import Trial, chooser
from .writes import Operation, watch

PART: Final = "full disks"

NOTHING_FITS, LITTLE_FITS, NO_NEW_FILES = "nothing fits", "little fits", "no new file fits"
WAYS: Final = (NOTHING_FITS, LITTLE_FITS, NO_NEW_FILES)
"""No write fits; only short writes fit; files and folders can't be created."""


def trials(seed: int, undisturbed: Sequence[Undisturbed]) -> list[Trial]:
    """Return every kind of write in every way, each in one of the runs that has it."""
    kinds = sorted({operation.kind for run in undisturbed for operation in run.operations})
    found = []
    for way in WAYS if no_space.is_possible() else (NO_NEW_FILES,):
        for kind in kinds:
            chosen = chooser(seed, PART, way, kind)
            run = chosen.choice([run for run in undisturbed if any(one.kind == kind for one in run.operations)])
            number = chosen.randint(1, sum(operation.kind == kind for operation in run.operations))
            smallest = chosen.choice((32, 256, 2_048)) if way == LITTLE_FITS else 1
            found.append(_trial(run, way, kind, number, smallest))
    chooser(seed, PART).shuffle(found)
    return found


def filler(folder: Path, way: str, kind: str, number: int, smallest: int = 1) -> Callable[[], None]:
    """Return a function that fills the disk of the process from an operation on.

    Args:
        folder: folder of the trial.
        way: one of `WAYS`.
        kind: kind of the write.
        number: number of the operation of this kind, from 1.
        smallest: smallest write, in bytes, that does not fit.
    """

    def before() -> None:
        count, full = 0, False

        def tell(operation: Operation) -> None:
            nonlocal count, full
            count += operation.kind == kind
            if not full and count == number:
                full = True
                if way != NO_NEW_FILES:
                    no_space.fill(smallest)
            if full and way == NO_NEW_FILES and operation.creates and not os.path.lexists(folder / operation.path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / operation.path))

        watch(folder, tell)

    return before


def _trial(run: Undisturbed, way: str, kind: str, number: int, smallest: int) -> Trial:
    def check(folder: Path) -> Outcome:
        run.task.lay_out(folder, run.model)
        ended = forked(folder, COMMAND, filler(folder, way, kind, number, smallest))
        wrong = manners(ended)
        if wrong is not None:
            return Outcome(Verdict.TRACEBACK, f"on the full disk: {wrong}")
        return of_going_on(folder, go_on(folder), run.results)

    least = f" from {smallest} bytes on" if smallest > 1 else ""
    return Trial(PART, f"{run.task.name}: {way}{least} from operation {number} of {kind} on", check)
