"""Answers training prompts ahead: while a model is served for its evaluation, it also answers the prompts of the iteration
that starts from it, which saves a start of the servers (`generate_ahead`).

The answers wait in a folder of the model's stage, since the iteration must not have begun before the gate has decided. The
generate phase takes them if that model is the opponent.
"""

from __future__ import annotations

import errno
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from ..config.engines import ALL_AHEAD, NONE_AHEAD
from ..data.keys import rows_digest
from ..errors import GenerationsError
from ..evaluation.figures import is_score
from ..evaluation.scoring import figures_of
from ..files import give_back, whole_folder, write_json
from ..generation.seconds import add_seconds, seconds_in
from ..generation.store import STORE_MANIFEST, GenerationStore
from ..judging.rubric import judged_criteria
from ..run.run import Run
from ..run.stage import SELF_PLAY, Stage
from .answering.at_hand import ModelAtHand
from .answering.into_store import answer_into

logger = logging.getLogger(__name__)


def iteration_ahead(run: Run, stage: Stage) -> int | None:
    """Return the iteration whose prompts a stage's model answers ahead; None: it answers no prompts ahead.

    Args:
        run: the run.
        stage: stage of the model, which has not been evaluated.
    """
    iteration, setting = stage.iteration + 1, run.play.generate_ahead
    # After the start, only the metric is checked, if it could not be before; after an iteration, the gate decides.
    is_checked = not is_score(run.play.metric_for_best_iteration) or _knows_figures(run)
    is_wanted = is_checked if stage.is_start and setting != NONE_AHEAD else setting == ALL_AHEAD
    follows = run.plays_on and stage.arm == SELF_PLAY and not stage.is_base and iteration < run.play.num_iterations
    if not is_wanted or not follows or run.has_begun(iteration) or run.decisions.after(stage.iteration):
        return None
    return iteration


def _knows_figures(run: Run) -> bool:
    """Return whether the numbers that the scorer gives are known before it is called."""
    return figures_of(run.play.scorer or [], run.play.criteria, judged_criteria(run.play)) is not None


def answer_ahead(run: Run, model: ModelAtHand, stage: Stage, iteration: int) -> float:
    """Let a stage's model answer the training prompts of an iteration that may start from it.

    Args:
        run: the run.
        model: the model.
        stage: its stage.
        iteration: number of the iteration (0-based), see [`iteration_ahead`].

    Returns:
        Seconds that the generation itself took.
    """
    folder = run.directory.ahead(stage)
    if PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    description = f"{Stage.of(iteration)}: answers"
    what = f"answers for iteration {iteration}"
    rows, into = run.self_play_rows(), folder / "generations"
    work_seconds = answer_into(run, model, rows, into, iteration, description, stage, what)
    if PartialState().is_main_process and work_seconds:
        add_seconds(folder, work_seconds)
    return work_seconds


@dataclass(frozen=True)
class AheadSeconds:
    """The seconds in which prompts of an iteration were answered ahead.

    Attributes:
        used: by the opponent, for the iteration's generations.
        unused: by a model that is not the opponent, or for prompts that were answered otherwise.
    """

    used: float = 0.0
    unused: float = 0.0


def take_ahead(run: Run, iteration: int) -> AheadSeconds:
    """Move answers that the opponent gave ahead to the generations of its iteration.

    Args:
        run: the run.
        iteration: number of the iteration (0-based), whose opponent has been decided.

    Returns:
        The seconds that the answers took, until [`forget_ahead`].
    """
    opponent, state = run.decisions.opponent(iteration), PartialState()
    of_previous, folder = run.directory.ahead(Stage.of(iteration - 1)), run.directory.ahead(opponent)
    answers, generations = folder / "generations", run.directory.generations(Stage.of(iteration))
    if state.is_main_process:
        if answers.exists() and (wrong := _unusable(run, iteration, opponent, GenerationStore(answers))):
            logger.warning("%s is removed, and the prompts are answered again. %s", folder, wrong)
            give_back(folder)
        elif answers.exists() and not generations.exists():
            _note_decision(run, iteration, answers)
            generations.parent.mkdir(exist_ok=True)
            _move(answers, generations)
    state.wait_for_everyone()
    unused = seconds_in(of_previous) if of_previous != folder else 0.0
    if answers.exists():  # the generations came from elsewhere
        return AheadSeconds(unused=unused + seconds_in(folder))
    return AheadSeconds(seconds_in(folder), unused)


def forget_ahead(run: Run, iteration: int) -> None:
    """Remove what is left of answers to an iteration's prompts that were given ahead, once their seconds are recorded."""
    if PartialState().is_main_process:
        for stage in {Stage.of(iteration - 1), run.decisions.opponent(iteration)}:
            give_back(run.directory.ahead(stage))


def _unusable(run: Run, iteration: int, opponent: Stage, store: GenerationStore) -> str | None:
    """Return why answers given ahead are not those that the iteration needs; None if they are, without damaged shards."""
    expected = {
        "dataset": rows_digest(run.self_play_rows()),
        "template": run.template().digest(run.definition),
        "iteration": iteration,
        "opponent": opponent,
    }
    if (damage := store.damage()) is not None:
        return str(damage)
    try:
        found, damaged = store.manifest(), store.damaged_shards()
    except GenerationsError as error:
        return str(error)
    for name, value in expected.items():
        if found.get(name) != value:
            return f"Their {name} is {found.get(name)!r}, not {value!r}."
    # `per_iteration` may have been changed for an iteration that has not begun.
    temperature = run.iteration_args(iteration).temperature
    if found["sampling"].get("temperature") != temperature:
        return f"Their temperature is {found['sampling'].get('temperature')!r}, not {temperature!r}."
    for path in damaged:
        path.unlink(missing_ok=True)
    return None


def _move(answers: Path, generations: Path) -> None:
    """Move a store, such that an interrupt leaves no part of it at its new place."""
    try:
        answers.rename(generations)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with whole_folder(generations) as unfinished:  # a stage's folder is a link to another disk
            shutil.copytree(answers, unfinished)
        give_back(answers)


def _note_decision(run: Run, iteration: int, answers: Path) -> None:
    """Write to a store's manifest what had not been decided when the store was begun."""
    manifest = GenerationStore(answers).manifest()
    write_json(answers / STORE_MANIFEST, manifest | {"lr_scale": run.decisions.lr_scale(iteration)})
