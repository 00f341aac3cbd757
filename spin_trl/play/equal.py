"""How long a baseline arm trains: for as many gradient steps as self-play has taken, or with as much compute.

Arms that continue the start are equal to self-play in every iteration; the arm from the base is equal to SFT first and all
iterations together. Steps differ in tokens, so an arm's compute is counted as in the journal: by the mean number of tokens
per row.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..config.traits import EQUAL_COMPUTE
from ..errors import RunDirectoryError
from ..run.compute import TRAINED_COUNTS, compute_of
from ..run.journal import Step, newest
from ..run.run import Run
from ..run.stage import BEST_SFT, START, Stage


def steps_of_arm(run: Run, stage: Stage) -> int:
    """Return the number of gradient steps that a stage of an arm takes if it takes as many as self-play.

    Raises:
        RuntimeError: if the stage's iteration has not been trained.
    """
    taken = [START, *_up_to(stage)] if stage.arm == BEST_SFT else [Stage.of(stage.iteration)]
    trained = [run.done(Step.TRAIN, one) for one in taken]
    if trained[-1] is None:
        raise RuntimeError(
            f"Iteration {stage.iteration} has not been trained, so its number of gradient steps is unknown."
        )
    return sum(int(entry["steps"]) for entry in trained if entry is not None)


def epochs_of_arm(run: Run, stage: Stage, tokens_an_epoch: int) -> float | None:
    """Return the number of epochs after which a stage of an arm has used as much compute as self-play.

    An arm trains whole steps; what it had too much or too little of in earlier iterations is made up for, so that the sums
    stay equal within a step.

    Args:
        run: the run.
        stage: stage of the arm, whose iteration has been trained.
        tokens_an_epoch: tokens of all rows that the arm trains on.

    Returns:
        The number of epochs, or None if arms take as many steps as self-play (`baseline_equal: steps`).

    Raises:
        RunDirectoryError: if the compute of an iteration is unknown, as in runs of earlier versions.
    """
    if run.play.baseline_equal != EQUAL_COMPUTE:
        return None
    spent = _total(run, Step.GENERATE, _up_to(stage)) + _total(run, Step.TRAIN, _up_to(stage))
    if stage.arm == BEST_SFT:
        spent += _total(run, Step.TRAIN, [START])
    else:
        spent -= _total(run, Step.TRAIN, [Stage.of(t, stage.arm) for t in range(stage.iteration)])
    return max(spent, 0.0) / (TRAINED_COUNTS * tokens_an_epoch)


def _up_to(stage: Stage) -> list[Stage]:
    """Return the iterations of self-play up to a stage's."""
    return [Stage.of(t) for t in range(stage.iteration + 1)]


def _total(run: Run, step: Step, stages: Sequence[Stage]) -> float:
    """Return the total compute of a step of several stages.

    Raises:
        RunDirectoryError: if it is unknown.
    """
    entries, total = run.journal.entries(), 0.0
    for stage in stages:
        found = compute_of([newest(entries, step, stage)])
        if found is None:
            raise RunDirectoryError(
                f"The compute of the {step} phase of {stage} is not in {run.directory.journal}: it was played by an earlier "
                "version. `baseline_equal: compute` needs it. Set `baseline_equal: steps`, or start a new run."
            )
        total += found.total
    return total
