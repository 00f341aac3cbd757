"""Runs that start alike share what is alike: prepared data, θ_0 and its figures, and what θ_0 generated."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ..files import JOURNAL, write_text
from ..run.directory import RunDirectory
from ..run.journal import DATA, Journal, Step
from ..run.stage import START, Stage

SHARED = frozenset(
    {
        (Step.PREPARE, DATA),
        (Step.GIVEN, START),
        (Step.TRAIN, START),
        (Step.EVALUATE, START),
        (Step.GENERATE, Stage.of(0)),
    }
)
"""Steps, as (phase, stage), that don't depend on the objective."""


def share_start(source: RunDirectory, target: RunDirectory) -> None:
    """Let a new run begin after iteration 0's generate phase, with the files of another run (as hard links).

    Args:
        source: of a run that has finished these steps.
        target: of a run of the same data, start and sampling; one that has begun is left as it is.
    """
    if target.journal.exists():
        return
    for name in ("data", START, f"{Stage.of(0)}/generations"):
        if source.stage(name).is_dir():
            shutil.copytree(source.stage(name), target.own(name), copy_function=_hard_link, dirs_exist_ok=True)
    steps = [entry for entry in Journal(source.journal).entries() if (entry["phase"], entry["stage"]) in SHARED]
    # Last, and whole: a run without a journal has not begun.
    lines = "".join(json.dumps(entry) + "\n" for entry in steps)
    write_text(target.own(JOURNAL), lines)


def _hard_link(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none. A run replaces files, and never writes into them."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
