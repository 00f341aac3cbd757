"""The generate phase: the opponent answers the training prompts, and the start scores the responses if it is mixed in."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

from accelerate import PartialState

from ..files import Checksum, remove
from ..generation.generations import Generations
from ..generation.seconds import SECONDS_FILE, seconds_in
from ..generation.store import GenerationStore
from ..generation.store_counts import StoreCounts
from ..generation.work import prompt_lengths
from ..run.compute import Compute
from ..run.integrity import recorded
from ..run.journal import Step
from ..run.run import Run, since
from ..run.stage import START, Stage
from ..training.start_logps import StartLogps, score_together, sets_of_responses
from .ahead import forget_ahead, take_ahead
from .answering.at_hand import at_hand
from .answering.into_store import answer_into


def trained_on(run: Run, iteration: int) -> dict[int, GenerationStore]:
    """Return the stores of the generations that iteration t is trained on, by iteration: its own and its history's."""
    mixed_in = run.decisions.lineage(iteration)[-1 - run.play.history :]
    return {t: GenerationStore(run.directory.generations(Stage.of(t))) for t in mixed_in}


def mixes_start(run: Run, iteration: int) -> bool:
    """Return whether θ_0 is mixed into the opponent of iteration t (`opponent_mix`), and is another model than that."""
    return run.args.opponent_mix > 0 and not run.decisions.opponent(iteration).is_start


@contextlib.contextmanager
def scoring_by_start(run: Run) -> Iterator[StartLogps]:
    """Give the log-probabilities of responses under θ_0, which is loaded if some are not known yet, and freed afterwards."""
    with at_hand(run, run.model_of(START)) as policy:
        score = functools.partial(policy.scored, score_together)
        of_start = GenerationStore(run.directory.generations(Stage.of(0))).manifest()
        yield StartLogps(run.directory.start_logps, of_start["model"], str(run.args.mixed_precision), score)


def _score_by_start(run: Run, iteration: int) -> tuple[dict[str, Any], int]:
    """Score the responses that iteration t is trained on under θ_0, alone in memory.

    Returns:
        The files for the journal, and the number of tokens that were scored: those of sets that were not known yet.
    """
    if PartialState().is_main_process:
        run.directory.own(START)
    generations = Generations.load(trained_on(run, iteration))
    sets = sets_of_responses(run.self_play_rows(), generations, run.iteration_args(iteration))
    scored = 0
    with scoring_by_start(run) as logps:
        for name, responses in sets.items():
            if not logps.path(name, responses).is_file():
                scored += sum(len(prompt) + len(response) for prompt, response in responses)
            logps.of(name, responses)
        paths = [logps.path(name, responses) for name, responses in sets.items()]
    files = recorded(f"{START}/{run.directory.start_logps.name}", {path.name: Checksum.of(path) for path in paths})
    return files, scored


def generate_iteration(run: Run, iteration: int) -> None:
    """Let θ_t answer the training prompts of iteration t, and let θ_0 score the responses if it is mixed into θ_t.

    Raises:
        GenerationsError: if the folder contains generations of another model, of other rows or with other settings.
    """
    stage = Stage.of(iteration)
    if run.done(Step.GENERATE, stage):
        forget_ahead(run, iteration)  # an interrupt may have come before
        return
    started, ahead = time.monotonic(), take_ahead(run, iteration)
    elsewhere = ahead.used + seconds_of_parts(run, iteration)
    folder = run.directory.generations(stage)
    opponent, description = run.decisions.opponent(iteration), f"{stage}: answers"
    rows = run.self_play_rows()
    with at_hand(run, run.model_of(opponent)) as policy:
        work_seconds = answer_into(run, policy, rows, folder, iteration, description, opponent)
    store = GenerationStore(folder)
    files = recorded(f"{stage}/generations", store.lists())
    # Only the main process records the step, so only that one reads all generations; the others read the journal.
    counts = StoreCounts.of(store, rows) if PartialState().is_main_process else None
    sampled = 0 if counts is None else counts.tokens
    compute = Compute(prefilled=int(prompt_lengths(rows).sum()), sampled=sampled)
    if mixes_start(run, iteration):
        of_start, scored = _score_by_start(run, iteration)
        files, compute = files | of_start, compute + Compute(scored=scored)
    run.record(
        Step.GENERATE,
        stage,
        opponent=opponent,
        lr_scale=run.decisions.lr_scale(iteration),
        seconds=round(since(started) + elsewhere + ahead.unused, 3),
        work_seconds=round(work_seconds + elsewhere, 3),
        tokens=sampled,
        **compute.as_entry(),
        **({} if counts is None else _identical(counts) | _split_responses(counts)),
        files=files,
    )
    if counts is not None and run.directory.parts(stage).exists():
        remove(run.directory.parts(stage))
    forget_ahead(run, iteration)


def seconds_of_parts(run: Run, iteration: int) -> float:
    """Return the seconds that all machines together took for the parts of an iteration's generations; 0 without parts."""
    folders = (path.parent for path in run.directory.parts(Stage.of(iteration)).glob(f"*/{SECONDS_FILE}"))
    return sum(map(seconds_in, folders), start=0.0)


def _split_responses(counts: StoreCounts) -> dict[str, int]:
    """Return the number of responses that were sampled in halves of their micro-batch, for the journal, if there are any."""
    return {"split": counts.split} if counts.split else {}


def _identical(counts: StoreCounts) -> dict[str, int]:
    """Return the number of generations, and of those that equal the real response token by token, for the journal."""
    return {"responses": counts.responses, "identical": counts.identical}
