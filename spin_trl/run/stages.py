"""The stages of a run that have a model, and how a user names them."""

from __future__ import annotations

from ..errors import RunDirectoryError, nearest
from ..files import read_json
from .run import Run
from .stage import Stage

BEST = "best"


def stages_with_model(run: Run) -> list[Stage]:
    """The start, the iterations, and the baseline arms, as far as their models are there."""
    return [
        stage
        for stage in run.directory.stages()
        if (stage.is_start and run.model is not None) or any(run.directory.model(stage).glob("*.safetensors"))
    ]


def find_stage(run: Run, name: str) -> Stage:
    """The stage that a name means.

    Args:
        run: the run.
        name: of a stage, or `best`.

    Raises:
        RunDirectoryError: there is none, or its model is not there.
    """
    known = stages_with_model(run)
    stage = (read_json(run.directory.best) or {}).get("stage") if name == BEST else name
    if stage in known:
        return Stage(stage)
    there = f"Stages with a model are {', '.join(known)}." if known else "None has one yet."
    if stage is None:
        raise RunDirectoryError(f"{run.directory.path} has no best iteration yet. {there}")
    # Stages' names are alike; only a slip of the keys is worth a question.
    near = "." if run.directory.stage(stage).exists() else nearest(stage, known, cutoff=0.8)
    raise RunDirectoryError(
        f"The stage {stage!r} of {run.directory.path} has no model{near} It has not been trained yet, or `keep_iterations` "
        f"has let it go. {there}"
    )
