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

from ...config.iteration import AUTO_BATCH
from ...errors import RecipeError
from ...files import JOURNAL, remove, write_text
from ...objectives.spin import SPIN_LOSS
from ...run.directory import RunDirectory
from ...run.journal import DATA, PAIRS, RETENTION, TEST, Journal, Step
from ...run.settings import freeze_batch_size, frozen_batch_size
from ...run.stage import BASE, BEST_SFT, DFT, DPO, SFT, START, Stage, arm_name
from ..parent import held_pipe

THEN = ">"
"""Separator of an arm's steps: `sigmoid > dpo`."""

SHARED = frozenset(
    {
        (Step.PREPARE, DATA),
        (Step.PREPARE, TEST),
        (Step.PREPARE, RETENTION),
        (Step.PREPARE, PAIRS),
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
    """One of the compared objectives, or a chain of steps that ends with DPO.

    Attributes:
        name: name as given: `space`, `space+0.1*sft`, `sft`, `sft-smoothing-0.1`, `sft-dft`, `sft-best`, `space > dpo`,
            `start > dpo`, `sft > space > dpo`.
        losses: weights by `loss_type`; empty for a supervised arm, and for DPO on the start.
        self_play: name of the self-play arm whose run trains it; empty if `losses` is.
        has_dpo: whether it ends with DPO on top, on the start or on the model that self-play delivers.
        has_sft: whether it is named as a chain that begins with SFT first.
    """

    name: str
    losses: Mapping[str, float] = field(default_factory=dict)
    self_play: str = ""
    has_dpo: bool = False
    has_sft: bool = False

    @property
    def key(self) -> tuple[str, bool]:
        """What the arm is, however it was spelt: `start > dpo` and `sft > dpo` are equal."""
        return self.self_play or ("" if self.has_dpo else self.name), self.has_dpo

    def before_dpo(self) -> Arm:
        """Return the self-play arm whose model DPO trains further."""
        return Arm(self.self_play, self.losses, self.self_play)

    def stage(self, iteration: int) -> Stage:
        """Return the stage of this arm in an iteration, within the run that plays it. DPO's depends on the run."""
        return Stage.of(iteration) if self.losses else Stage.of(iteration, self.name)

    @classmethod
    def parse(cls, name: str) -> Arm:
        """Parse the name of an arm.

        Raises:
            RecipeError: if it is not the name of an arm.
        """
        if THEN in name or name.strip() == DPO:
            return cls._parse_chain(name)
        if name in (SFT, DFT, BEST_SFT):
            return cls(name)
        if name.startswith("sft-smoothing-"):
            return cls(arm_name(_weight_of_arm(name.removeprefix("sft-smoothing-"), name)))
        losses: dict[str, float] = {}
        for term in name.split("+"):
            weight, star, loss = term.rpartition("*")
            losses[_LOSS_OF.get(loss.strip(), loss.strip())] = _weight_of_arm(weight, name) if star else 1.0
        known = _LOSS_OF.get(name.strip(), name)
        return cls(known, losses, known)

    @classmethod
    def _parse_chain(cls, name: str) -> Arm:
        """Parse `[sft or start >] [self-play >] [dpo]`."""
        first, *others = steps = [step.strip() for step in name.split(THEN)]
        if DPO in steps[:-1] or first == DPO:
            raise RecipeError(
                f"The arm {name!r}: DPO trains a finished model further, so `{DPO}` comes last, after that model: "
                f"`sigmoid {THEN} {DPO}`, or `{START} {THEN} {DPO}` for DPO without self-play."
            )
        middle = others if first in (SFT, START) else steps
        has_dpo = middle[-1:] == [DPO]
        middle = middle[:-1] if has_dpo else middle
        self_play = cls.parse(middle[0]) if len(middle) == 1 and middle[0] else None
        if len(middle) > 1 or (middle and (self_play is None or not self_play.losses)) or not (middle or has_dpo):
            raise RecipeError(
                f"The arm {name!r} can't be compared. A chain of steps begins with `{SFT}` (SFT first) or `{START}`, "
                f"which may be left out, has one self-play arm, such as `sigmoid` or `space+0.1*sft`, and may end with "
                f"`{DPO}`. DPO without self-play is `{START} {THEN} {DPO}`, or `{SFT} {THEN} {DPO}` after SFT first."
            )
        if self_play is not None and not has_dpo:
            return cls(self_play.name, self_play.losses, self_play.name, has_sft=first == SFT)
        steps = [*([first] if first in (SFT, START) else []), *([self_play.name] if self_play else []), DPO]
        losses, of_self_play = (self_play.losses, self_play.name) if self_play else ({}, "")
        return cls(f" {THEN} ".join(steps), losses, of_self_play, has_dpo=True, has_sft=first == SFT)


_LOSS_OF = dict.fromkeys(SPIN_LOSS.guesses, SPIN_LOSS.loss_type)
"""Names of SPIN's loss other than its `loss_type`."""


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


def share_start(source: RunDirectory, target: RunDirectory, *, pairs: bool = True) -> None:
    """Let a new run begin after the generate phase of iteration 0, with hard links to another run's files.

    Args:
        source: directory of a run that has finished these steps.
        target: directory of a run with the same data, start and sampling; left unchanged if that run has begun.
        pairs: whether that run has DPO on top as well, so that it needs the preference pairs.
    """
    if target.journal.exists():
        return
    for name in ("data", BASE, START, f"{Stage.of(0)}/generations"):
        if source.stage(name).is_dir():
            # The other run may just be removing what its start answered ahead.
            passing = shutil.ignore_patterns("ahead", ".ahead.tmp")
            shutil.copytree(
                source.stage(name), target.own(name), ignore=passing, copy_function=_hard_link, dirs_exist_ok=True
            )
    size = frozen_batch_size(source) if source.recipe.exists() else None
    if isinstance(size, int) and target.recipe.exists() and frozen_batch_size(target) == AUTO_BATCH:
        freeze_batch_size(target, size)  # all arms sample the same way
    shared = SHARED
    if not pairs:
        shared = SHARED - {(Step.PREPARE, PAIRS)}
        remove(target.pairs)
    steps = [entry for entry in Journal(source.journal).entries() if (entry["phase"], entry["stage"]) in shared]
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
