"""Progress of a phase: how far it is, how fast it runs, and the time left for it and for the run.

A phase that runs in a separate process writes its progress to a file for the process that launched it.
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
from .journal import MADE, Step
from .stage import DPO, SELF_PLAY, Stage

WRITES_EVERY = 0.5
"""Minimum number of seconds between writes to the progress file."""


@dataclass
class Progress:
    """Progress of a running phase, which any thread may read.

    Attributes:
        part: part of the phase that is running, such as a baseline arm; empty if the phase has no parts.
        what: unit that is counted: answers, steps. Empty before the first report.
        done, total: number of units done, and in all.
        tokens: number of tokens generated since the count began; 0 if none are generated.
        first: number of units already done when the count began, after an interruption.
        started: start time by `time.monotonic()`, which is the same for all processes on a machine.
        file: file that the progress is written to at intervals, or None.
    """

    part: str = ""
    what: str = ""
    done: int = 0
    total: int = 0
    tokens: int = 0
    first: int = 0
    started: float = field(default_factory=time.monotonic)
    file: Path | None = None
    _written: float = -1.0

    def begin(self, what: str = "", done: int = 0, total: int = 0) -> None:
        """Start a new count."""
        self.what, self.done, self.total, self.tokens, self.first = what, done, total, 0, done
        self.started = time.monotonic()
        self._write()

    def report(self, done: int, tokens: int = 0) -> None:
        """Report how many units are done, and how many tokens have been generated."""
        self.done, self.tokens = done, tokens
        if time.monotonic() - self._written > WRITES_EVERY:
            self._write()

    def read(self, file: Path) -> None:
        """Read the last progress written by another process. An incomplete file is ignored."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            values = parse_json(file.read_text(encoding="utf-8"))
            vars(self).update({name: values[name] for name in _WRITTEN_FIELDS})

    def _write(self) -> None:
        if self.file is not None:
            self._written = time.monotonic()
            values = {name: getattr(self, name) for name in _WRITTEN_FIELDS}
            with contextlib.suppress(OSError):  # a run must not fail because its progress can't be written
                self.file.write_text(json.dumps(values), encoding="utf-8")

    def answered(self, done: int, total: int, tokens: int, *, what: str = "answers") -> None:
        """Report the progress of generation. The first call, without tokens, starts the count."""
        if tokens == 0:
            self.begin(what, done, total)
        self.report(done, tokens)

    def rate(self, now: float) -> float | None:
        """Return the number of units done per second; None before the first."""
        seconds = now - self.started
        return (self.done - self.first) / seconds if self.done > self.first and seconds > 0 else None

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds until all units are done at the current rate; None if unknown."""
        rate = self.rate(now)
        return None if rate is None else (self.total - self.done) / rate


_WRITTEN_FIELDS = ("part", "what", "done", "total", "tokens", "first", "started")


class ReportSteps(TrainerCallback):
    """Callback that reports a trainer's steps."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the count; when resuming, at the checkpoint's step."""
        self.progress.begin("steps", state.global_step, state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Report one more step."""
        self.progress.report(state.global_step)


def seconds_left_of_phase(
    entries: Sequence[Mapping[str, Any]], phase: str, iteration: int, elapsed: float, left_of_count: float | None
) -> float | None:
    """Estimate how long the rest of a phase will take.

    A phase that counts once, such as training, ends when its count does. Evaluation and the baseline count several times:
    answers, then log-probabilities, for each arm. Their rest takes as long as last time, but no less than the running count.

    Args:
        entries: entries of the journal when the phase began.
        phase: the phase.
        iteration: its iteration, 0-based.
        elapsed: seconds since the phase began.
        left_of_count: seconds left of the running count at its current rate, or None.

    Returns:
        Seconds, 0 if it already takes longer than last time; None if unknown.
    """
    durations = _durations(entries).get(phase, {})
    done_before = durations.pop(iteration, 0.0)  # some of several arms, before an interruption
    if (left_of_count is not None and phase not in COUNTS_SEVERAL_TIMES) or not durations:
        return left_of_count
    return max(durations[max(durations)] - done_before - elapsed, left_of_count or 0.0)


COUNTS_SEVERAL_TIMES = ("evaluate", "baseline")
"""Phases with more than one count, so that the end of a count is not the end of the phase."""


def seconds_left_of_run(
    entries: Sequence[Mapping[str, Any]],
    phases: Sequence[str],
    phase: str,
    iteration: int,
    num_iterations: int,
    left_of_phase: float | None,
) -> float | None:
    """Estimate how long the rest of a run will take, assuming that each phase takes as long as it did last time.

    Args:
        entries: entries of the journal.
        phases: phases of every iteration, in order.
        phase: phase that is running now.
        iteration: its iteration, 0-based.
        num_iterations: number of iterations of the run.
        left_of_phase: seconds left of the running phase at its current rate; None: as long as it took last time.

    Returns:
        Seconds, or None if a remaining phase has not been timed yet.
    """
    took = _durations(entries)
    took.get(phase, {}).pop(iteration, None)  # some of several arms may already be done
    last = {name: seconds[max(seconds)] for name, seconds in took.items() if seconds}
    still = [*phases[phases.index(phase) + 1 :], *(num_iterations - iteration - 1) * list(phases)]
    if left_of_phase is None:
        still.append(phase)
    if any(name not in last for name in still):
        return None
    return (left_of_phase or 0.0) + sum(last[name] for name in still)


def _durations(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Return the seconds that each finished phase took, by phase and iteration. The start's evaluation has iteration -1."""
    durations: dict[str, dict[int, float]] = {}
    for entry in entries:
        if entry["phase"] not in MADE:
            continue
        stage = Stage(entry["stage"])
        if stage.is_base or (stage.is_start and entry["phase"] not in (Step.EVALUATE, Step.RETENTION)):
            continue
        if stage.arm == DPO:
            continue  # it follows the last iteration
        phase = Step.EVALUATE if entry["phase"] == Step.RETENTION else entry["phase"]
        of_phase = durations.setdefault(phase if stage.arm == SELF_PLAY else "baseline", {})
        of_phase[stage.iteration] = of_phase.get(stage.iteration, 0.0) + entry["seconds"]
    return durations
