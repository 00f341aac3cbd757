"""How far a phase has come, how fast it goes, and how long the rest of it and of the run will take.

A phase that runs in a process of its own says so in a file, for the one that has launched it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..files import parse_json
from .journal import MADE
from .stage import SELF_PLAY, Stage

WRITES_EVERY = 0.5
"""Seconds."""


@dataclass
class Progress:
    """What a phase says of itself while it runs, for whoever looks, from whichever thread.

    Attributes:
        what: is counted: answers, steps. Empty before the first report.
        done, total: how many of them.
        tokens: generated since the count began; 0 where none are.
        first: how many were done when the count began, after an interrupt.
        started: when it began, by `time.monotonic()`, which is the same for all processes of a machine.
        file: where it is written down from time to time, or None.
    """

    what: str = ""
    done: int = 0
    total: int = 0
    tokens: int = 0
    first: int = 0
    started: float = field(default_factory=time.monotonic)
    file: Path | None = None
    _written: float = -1.0

    def begin(self, what: str = "", done: int = 0, total: int = 0) -> None:
        """Count something else from now on."""
        self.what, self.done, self.total, self.tokens, self.first = what, done, total, 0, done
        self.started = time.monotonic()
        self._write()

    def report(self, done: int, tokens: int = 0) -> None:
        """Say how many are done, and how many tokens that took."""
        self.done, self.tokens = done, tokens
        if time.monotonic() - self._written > WRITES_EVERY:
            self._write()

    def read(self, file: Path) -> None:
        """Take over what another process has written last; half of a line is passed over."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            values = parse_json(file.read_text(encoding="utf-8"))
            vars(self).update({name: values[name] for name in _WRITTEN_FIELDS})

    def _write(self) -> None:
        if self.file is not None:
            self._written = time.monotonic()
            values = {name: getattr(self, name) for name in _WRITTEN_FIELDS}
            with contextlib.suppress(OSError):  # nobody loses a run because nobody can watch it
                self.file.write_text(json.dumps(values), encoding="utf-8")

    def answered(self, done: int, total: int, tokens: int) -> None:
        """What a generation says of itself; its first call, without tokens, begins the count."""
        if tokens == 0:
            self.begin("answers", done, total)
        self.report(done, tokens)

    def rate(self, now: float) -> float | None:
        """How many are done a second; None before the first."""
        seconds = now - self.started
        return (self.done - self.first) / seconds if self.done > self.first and seconds > 0 else None

    def seconds_left(self, now: float) -> float | None:
        """Until all are done, at this rate; None if nobody knows."""
        rate = self.rate(now)
        return None if rate is None else (self.total - self.done) / rate


_WRITTEN_FIELDS = ("what", "done", "total", "tokens", "first", "started")


class ReportSteps(TrainerCallback):
    """Counts a trainer's steps."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin the count, after an interrupt where the checkpoint ends."""
        self.progress.begin("steps", state.global_step, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """One more step."""
        self.progress.report(state.global_step)


def seconds_left_of_run(
    entries: Sequence[Mapping[str, Any]],
    phases: Sequence[str],
    phase: str,
    iteration: int,
    num_iterations: int,
    left_of_phase: float | None,
) -> float | None:
    """How long the rest of a run will take, if its phases take as long as they did last time.

    Args:
        entries: of the journal.
        phases: of every iteration, in their order.
        phase: that runs now, in iteration `iteration`.
        iteration: 0-based.
        num_iterations: of the run.
        left_of_phase: seconds, by its own rate; None: as long as last time.

    Returns:
        Seconds, or None while some phase has not been seen yet.
    """
    took: dict[str, dict[int, float]] = {}
    for entry in entries:
        if entry["phase"] not in MADE or (stage := Stage(entry["stage"])).is_start:
            continue
        of_phase = took.setdefault(entry["phase"] if stage.arm == SELF_PLAY else "baseline", {})
        of_phase[stage.iteration] = of_phase.get(stage.iteration, 0.0) + entry["seconds"]
    took.get(phase, {}).pop(iteration, None)  # of several arms, some may be done
    last = {name: seconds[max(seconds)] for name, seconds in took.items() if seconds}
    still = [*phases[phases.index(phase) + 1 :], *(num_iterations - iteration - 1) * list(phases)]
    if left_of_phase is None:
        still.append(phase)
    if any(name not in last for name in still):
        return None
    return (left_of_phase or 0.0) + sum(last[name] for name in still)
