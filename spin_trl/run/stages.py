"""The stages of a run that have a model, and how a user names them."""

from __future__ import annotations

import difflib

from ..errors import RunDirectoryError
from ..files import read_json
from .directory import START, iteration_stage
from .run import Run

BEST = "best"


def stages_with_model(run: Run) -> list[str]:
    """The start, the iterations, and the baseline arms, as far as their models are there."""
    directory = run.directory
    stages = [iteration_stage(number) for number in directory.iterations()]
    arms = directory.baselines.glob("*/iteration-*")
    stages += [f"baseline/{place.relative_to(directory.baselines).as_posix()}" for place in arms]
    found = sorted((stage for stage in stages if any(directory.model(stage).glob("*.safetensors"))), key=_order)
    has_start = run.model is not None or any(directory.model(START).glob("*.safetensors"))
    return [*([START] if has_start else []), *found]


def find_stage(run: Run, name: str) -> str:
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
        return stage
    there = f"Stages with a model are {', '.join(known)}." if known else "None has one yet."
    if stage is None:
        raise RunDirectoryError(f"{run.directory.path} has no best iteration yet. {there}")
    near = difflib.get_close_matches(stage, known, n=1, cutoff=0.8) if not run.directory.stage(stage).exists() else []
    nearest = f" Did you mean {near[0]!r}?" if near else ""
    raise RunDirectoryError(
        f"The stage {stage!r} of {run.directory.path} has no model: it has not been trained yet, or `keep_iterations` has "
        f"let it go.{nearest} {there}"
    )


def _order(stage: str) -> tuple[str, int]:
    arm, _, iteration = stage.rpartition("iteration-")
    return arm, int(iteration)
