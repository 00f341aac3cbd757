"""Generates an iteration's answers in parts on several machines that share a disk, and merges the parts."""

from __future__ import annotations

import contextlib
import logging

from accelerate import PartialState

from ..counts import counted
from ..data.keys import rows_digest
from ..errors import RecipeError, RunDirectoryError
from ..generation.merge import merge
from ..generation.parts import GenerationPart
from ..generation.seconds import add_seconds
from ..generation.store import STORE_MANIFEST, GenerationStore
from ..run.journal import Step
from ..run.lock import only_process
from ..run.run import Run
from ..run.stage import Stage
from .answering.at_hand import at_hand
from .answering.into_store import answer_into

logger = logging.getLogger(__name__)


def generate_part(run: Run, iteration: int, part: GenerationPart) -> None:
    """Let θ_t answer the prompts of one part of the shards, into the part's own folder.

    Nothing else in the run directory is written, so machines that generate other parts need not know of each other.

    Args:
        run: run whose data is prepared.
        iteration: iteration t (0-based).
        part: the part.

    Raises:
        RunDirectoryError: if another process generates this part, or the run has not decided which model answers.
        GenerationsError: if the folder contains generations of another model, of other rows or with other settings.
    """
    if run.done(Step.GENERATE, Stage.of(iteration)):
        return
    if iteration and not run.decisions.after(iteration - 1):
        raise RunDirectoryError(
            f"The run in {run.directory.path} has not decided how it continues after iteration {iteration - 1}. Play it up "
            f"to here first: `spin-trl run {run.directory.path} --until generate`."
        )
    stage, is_main = Stage.of(iteration), PartialState().is_main_process
    if is_main:
        run.directory.own(stage)
    PartialState().wait_for_everyone()
    opponent, folder = run.decisions.opponent(iteration), run.directory.parts(stage) / part.name
    if is_main:
        folder.mkdir(parents=True, exist_ok=True)
    lock = only_process(folder.with_suffix(".lock"), folder, confirms=True)
    with lock if is_main else contextlib.nullcontext(), at_hand(run, run.model_of(opponent)) as policy:
        seconds = answer_into(
            run, policy, run.self_play_rows(), folder, iteration, f"{stage}: answers, part {part}", opponent, part=part
        )
        if is_main and seconds:
            add_seconds(folder, seconds)


def merge_parts(run: Run, iteration: int) -> None:
    """Merge the parts of an iteration's generations, which its generate phase then finds complete.

    Args:
        run: run whose data is prepared.
        iteration: iteration t (0-based).

    Raises:
        RunDirectoryError: if there are no parts.
        GenerationsError: if shards are missing, damaged or in two parts, or parts were made with different settings.
    """
    stage = Stage.of(iteration)
    if run.done(Step.GENERATE, stage):
        return
    parts = parts_of(run, iteration)
    if not parts:
        raise RunDirectoryError(
            f"{run.directory.parts(stage)} has no parts to merge. Generate them first: `spin-trl generate "
            f"{run.directory.path} --iteration {iteration} --shard 1/2`, and so on."
        )
    rows = run.self_play_rows()
    expected = {
        "dataset": rows_digest(rows),
        "template": run.template().digest(run.definition),
        "iteration": iteration,
    }
    merge(parts, GenerationStore(run.directory.generations(stage)), rows, expected)
    logger.info("Merged %s.", counted(len(parts), "part"))


def parts_of(run: Run, iteration: int) -> dict[GenerationPart, GenerationStore]:
    """Return the parts of an iteration that have been generated, at least in part. Other folders are passed over."""
    found = {}
    for manifest in sorted(run.directory.parts(Stage.of(iteration)).glob(f"*-of-*/{STORE_MANIFEST}")):
        with contextlib.suppress(RecipeError):
            found[GenerationPart.parse(manifest.parent.name.replace("-of-", "/"))] = GenerationStore(manifest.parent)
    return found
