"""Lets one of a run's models answer prompts into a store, by whichever engine the run generates with."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from ...config.engines import VLLM
from ...errors import DivergedError
from ...files import remove
from ...generation.answer import generate
from ...generation.completions.failures import CompletionsError
from ...generation.engine import Sampling, UnansweredError
from ...generation.engines.server import ServerEngine
from ...generation.parts import GenerationPart
from ...generation.store import GenerationStore
from ...run.run import Run
from ...run.stage import Stage
from .at_hand import ModelAtHand
from .batch_size import settle_batch_size
from .pause import check_still_answering, forget_pause, tell_given_up
from .served import quantises

logger = logging.getLogger(__name__)


def answer_into(
    run: Run,
    model: ModelAtHand,
    rows: Dataset,
    folder: Path,
    iteration: int,
    description: str,
    opponent: Stage | None = None,
    what: str = "answers",
    part: GenerationPart | None = None,
    **others: float,
) -> float:
    """Let a model answer the prompts of `rows` into the store `folder`.

    Args:
        run: the run.
        model: the model.
        rows: prepared rows.
        folder: folder of the store. If the store is complete, no model is loaded or served; if it is damaged, it is started
            over.
        iteration: iteration whose settings are used; it is also part of the seeds.
        description: text next to the progress bar.
        opponent: stage of the model, if an iteration is trained on the answers.
        what: what the run's progress calls the answers.
        part: part of the shards to generate, of which other machines may be generating the others at the same time.
        others: settings of [`Sampling`] that replace the iteration's.

    Returns:
        Seconds that the generation itself took.

    Raises:
        DivergedError: if the model's logits are NaN.
        UnansweredError, CompletionsError: if prompts have no answer; all that was finished is kept.
        PausedError: if servers that exist already have to be given the model's weights by hand.
    """
    store, state = GenerationStore(folder), PartialState()
    state.wait_for_everyone()  # all must have learnt of an earlier pause before it is forgotten
    if state.is_main_process:
        forget_pause(run)
    damaged = store.damage() if state.is_main_process else None
    if damaged is not None:
        logger.warning("%s is damaged; its answers are generated again (%s).", folder, damaged.__cause__ or damaged)
        remove(folder)
    state.wait_for_everyone()
    if store.is_complete(part):
        return 0.0
    if model.is_served and not state.is_main_process:
        # One process asks the engine. A barrier would time out, and a process that fails ends the others.
        while not store.is_complete(part):
            check_still_answering(run)
            time.sleep(1)
        return 0.0
    settle_batch_size(run, model, is_alone=part is None)
    # The seed of the run, not of the iteration: the iteration number is added separately.
    given: dict[str, Any] = {"seed": run.args.seed, **others}
    sampling = dataclasses.replace(Sampling.from_args(run.iteration_args(iteration)), **given)
    try:
        asked = model.asked(rows)
        engine = model.engine(rows, store)
        started = time.monotonic()
        generate(
            engine,
            rows,
            store,
            sampling,
            asked,
            iteration=iteration,
            opponent=opponent,
            lr_scale=None if opponent is None else run.decisions.lr_scale(iteration),
            unquantised_base=run.args.engine == VLLM and quantises(run),
            part=part,
            served=engine.served if isinstance(engine, ServerEngine) else None,
            disable_progress=bool(run.args.disable_tqdm),
            description=description,
            # The run has one file of its progress, which several machines must not write.
            on_progress=functools.partial(run.progress.answered, what=what) if part is None else lambda *_: None,
        )
    except (DivergedError, UnansweredError, CompletionsError) as error:
        if model.is_served and state.num_processes > 1:
            tell_given_up(run, error)
        raise
    return time.monotonic() - started
