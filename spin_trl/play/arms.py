"""The arms of a comparison: their names, their processes, and what they share.

Runs with the same start share everything that does not depend on the objective: the prepared data, θ_0 with its figures, and
the responses that θ_0 generated.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import RecipeError
from ..files import JOURNAL, write_text
from ..run.directory import RunDirectory
from ..run.journal import DATA, RETENTION, TEST, Journal, Step
from ..run.stage import BASE, BEST_SFT, DFT, SFT, START, Stage, arm_name
from .parent import held_pipe

SHARED = frozenset(
    {
        (Step.PREPARE, DATA),
        (Step.PREPARE, TEST),
        (Step.PREPARE, RETENTION),
        (Step.GIVEN, BASE),
        (Step.GIVEN, START),
        (Step.TRAIN, START),
        *((step, stage) for step in (Step.EVALUATE, Step.RETENTION, Step.TEST) for stage in (BASE, START)),
        (Step.GENERATE, Stage.of(0)),
    }
)
"""Steps that don't depend on the objective, as (phase, stage)."""


@dataclass(frozen=True)
class Arm:
    """One of the compared objectives.

    Attributes:
        name: name as given: `space`, `space+0.1*sft`, `sft`, `sft-smoothing-0.1`, `sft-dft`, `sft-best`.
        losses: weights by `loss_type`; empty for a supervised arm.
    """

    name: str
    losses: Mapping[str, float] = field(default_factory=dict)

    def stage(self, iteration: int) -> Stage:
        """Return the stage of this arm in an iteration, within the run that plays it."""
        return Stage.of(iteration) if self.losses else Stage.of(iteration, self.name)

    @classmethod
    def parse(cls, name: str) -> Arm:
        """Parse the name of an arm.

        Raises:
            RecipeError: if it is not the name of an arm.
        """
        if name in (SFT, DFT, BEST_SFT):
            return cls(name)
        if name.startswith("sft-smoothing-"):
            return cls(arm_name(_weight_of_arm(name.removeprefix("sft-smoothing-"), name)))
        losses: dict[str, float] = {}
        for term in name.split("+"):
            weight, star, loss = term.rpartition("*")
            losses[loss.strip()] = _weight_of_arm(weight, name) if star else 1.0
        return cls(name, losses)


def _weight_of_arm(text: str, arm: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RecipeError(
            f"The arm {arm!r} has {text!r} where a number is expected; arms look like `space` or `space+0.1*sft`."
        ) from None


class Launches:
    """Runs command lines in separate processes, all of which can be stopped."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, arguments: Sequence[str], output: Path, device: int | None) -> int:
        """Run `spin-trl` and wait for it to finish.

        Args:
            arguments: arguments of the command.
            output: file to which its output is appended.
            device: index of the visible GPU that it may use; None: all of them.

        Returns:
            The exit code.
        """
        if self._stopped:
            return 1
        environment = dict(os.environ)
        if device is not None:
            visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
            environment["CUDA_VISIBLE_DEVICES"] = visible[device % len(visible)] if visible else str(device)
        with held_pipe() as watched:
            with output.open("a", encoding="utf-8") as file:
                command = [sys.executable, "-m", "spin_trl", *arguments]
                environment |= watched
                process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
            self._running.add(process)
            try:
                return process.wait()
            except BaseException:
                process.terminate()  # finished work is kept
                process.wait()
                raise
            finally:
                self._running.discard(process)

    def stop(self) -> None:
        """Terminate all running processes, which keep their finished work, and start no more."""
        self._stopped = True
        for process in list(self._running):
            process.terminate()


def share_start(source: RunDirectory, target: RunDirectory) -> None:
    """Let a new run begin after the generate phase of iteration 0, with hard links to another run's files.

    Args:
        source: directory of a run that has finished these steps.
        target: directory of a run with the same data, start and sampling; left unchanged if that run has begun.
    """
    if target.journal.exists():
        return
    for name in ("data", BASE, START, f"{Stage.of(0)}/generations"):
        if source.stage(name).is_dir():
            shutil.copytree(source.stage(name), target.own(name), copy_function=_hard_link, dirs_exist_ok=True)
    steps = [entry for entry in Journal(source.journal).entries() if (entry["phase"], entry["stage"]) in SHARED]
    # Last, and atomically: a run without a journal has not begun.
    lines = "".join(json.dumps(entry) + "\n" for entry in steps)
    write_text(target.own(JOURNAL), lines)


def _hard_link(source: str, target: str) -> None:
    """Make a hard link, or a copy if that is not supported. Linking is safe: runs replace files and never modify them."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
