"""`RunResult`: the best model of a run and its figures, as `SelfPlay.run()` returns them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..errors import RunDirectoryError
from ..report.record import read_record
from ..run.objects import best_stage
from ..run.run import Run
from .console import Figures, all_figures


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        best_stage: `start`, the iteration with the best figure, or the model that DPO trained from either.
        best_model: folder or Hub name of the best model.
        figures: held-out figures by stage (the start, the iterations, the baseline arms, and DPO's results), and with the
            prefix `retention/` those on the retention set, with `review/` those of people's votes.
        directory: the run directory.
        stopped: why the run ended before its last iteration, or None.
        test_figures: figures on the test set, by stage; empty without one.
        paused: what to do before the run can go on, if it waits for servers to be given other weights, or for votes; else
            None.
    """

    best_stage: str
    best_model: str
    figures: Figures
    directory: Path
    stopped: str | None = None
    test_figures: Figures = field(default_factory=dict)
    paused: str | None = None


def result_of(run: Run, iteration: int, stopped: str | None) -> RunResult:
    """Return the result of a run that has been played.

    Args:
        run: the run.
        iteration: its last iteration (0-based).
        stopped: why it ended before its last iteration, or None.

    Raises:
        RunDirectoryError: if the link to the best model has been removed.
    """
    delivered = best_stage(run.directory)
    if delivered is None:
        raise RunDirectoryError(
            f"{run.directory.best} was removed while the run was playing. Run the same command to write it again."
        )
    return RunResult(
        delivered,
        run.model_of(delivered),
        all_figures(run, iteration),
        run.directory.path,
        stopped,
        {stage.name: dict(stage.test.figures) for stage in read_record(run.directory).tested},
    )
