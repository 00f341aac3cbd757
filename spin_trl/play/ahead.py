"""Answers training prompts ahead: while a model is served for its evaluation, it also answers the prompts of the iteration
that starts from it, which saves a start of the servers (`generate_ahead`).

The answers wait in a folder of the model's stage, since the iteration must not have begun before the gate has decided. The
generate phase takes them if that model is the opponent.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from accelerate import PartialState

from ..config.engines import ALL_AHEAD, NONE_AHEAD
from ..counts import listed
from ..data.keys import rows_digest
from ..errors import GenerationsError
from ..files import give_back, write_json
from ..generation.seconds import add_seconds, seconds_in
from ..generation.store import STORE_MANIFEST, GenerationStore
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
    # After the start, nothing is decided; after an iteration, the gate may stop the run or fall back.
    is_wanted = setting == ALL_AHEAD or (stage.is_start and setting != NONE_AHEAD)
    follows = run.plays_on and stage.arm == SELF_PLAY and not stage.is_base and iteration < run.play.num_iterations
    if not is_wanted or not follows or run.has_begun(iteration) or run.decisions.after(stage.iteration):
        return None
    return iteration


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


def take_ahead(run: Run, iteration: int) -> float:
    """Move answers that the opponent gave ahead to the generations of its iteration, and remove those of another model.

    Args:
        run: the run.
        iteration: number of the iteration (0-based), whose opponent has been decided.

    Returns:
        Seconds that the answers took; 0 if there are none. They are counted until [`forget_ahead`].
    """
    opponent, state = run.decisions.opponent(iteration), PartialState()
    of_previous, folder = run.directory.ahead(Stage.of(iteration - 1)), run.directory.ahead(opponent)
    answers, generations = folder / "generations", run.directory.generations(Stage.of(iteration))
    if state.is_main_process:
        if of_previous != folder and of_previous.exists():
            logger.info("%s is removed: iteration %d starts from %s.", of_previous, iteration, opponent)
            give_back(of_previous)
        if answers.exists() and (wrong := _unusable(run, iteration, opponent, GenerationStore(answers))):
            logger.warning("%s is removed, and the prompts are answered again. %s", folder, wrong)
            give_back(folder)
        elif answers.exists() and not generations.exists():
            _note_decision(run, iteration, answers)
            generations.parent.mkdir(exist_ok=True)
            os.replace(answers, generations)
    state.wait_for_everyone()
    return 0.0 if answers.exists() else seconds_in(folder)


def forget_ahead(run: Run, iteration: int) -> None:
    """Remove what the opponent of an iteration (0-based) left of its answers ahead, once their seconds are recorded."""
    if PartialState().is_main_process:
        give_back(run.directory.ahead(run.decisions.opponent(iteration)))


def _unusable(run: Run, iteration: int, opponent: Stage, store: GenerationStore) -> str | None:
    """Return why answers given ahead are not those that the iteration needs, or None if they are."""
    expected = {
        "dataset": rows_digest(run.self_play_rows()),
        "template": run.template().digest(run.definition),
        "iteration": iteration,
        "opponent": opponent,
    }
    try:
        found = store.manifest()
        damaged = [path.name for path in store.damaged_shards() if path.is_file()]
    except GenerationsError as error:
        return str(error)
    for name, value in expected.items():
        if found.get(name) != value:
            return f"Their {name} is {found.get(name)!r}, not {value!r}."
    return f"These files have changed: {listed(damaged, 3)}." if damaged else None


def _note_decision(run: Run, iteration: int, answers: Path) -> None:
    """Write to a store's manifest what had not been decided when the store was begun."""
    manifest = GenerationStore(answers).manifest()
    write_json(answers / STORE_MANIFEST, manifest | {"lr_scale": run.decisions.lr_scale(iteration)})
