"""Compares the files of a run's finished steps with their checksums when the run is resumed, and repairs the run.

A step's files depend only on those of the steps before it. So a step with damaged files no longer counts as finished (`lost`
in the journal): its damaged files are removed, and the loop runs it again. A step that can't be run again raises an error.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..counts import counted
from ..errors import RunDirectoryError
from ..files import remove
from ..generation.store import SHARD_CHECKSUMS, STORE_MANIFEST, GenerationStore
from ..run.checked import CHANGED, GONE
from ..run.integrity import Damage, damage
from ..run.journal import CHECKSUMS, MADE, MEASURED_SETS, PAIRS, Entry, Step, is_of, newest
from ..run.objects import best_stage
from ..run.run import Run
from ..run.stage import BEFORE_SFT, SELF_PLAY, START, Stage

logger = logging.getLogger(__name__)


def mend(run: Run) -> None:
    """Check the files of a run's finished steps, and mark steps with damaged files to be run again.

    Raises:
        RunDirectoryError: if something is damaged that can't be produced again.
    """
    _forget_damaged_best(run)
    entries = run.journal.entries()
    steps = {(entry["phase"], entry["stage"]): None for entry in entries if entry["phase"] in (*MADE, Step.PREPARE)}
    done = {(Step(step), stage): entry for step, stage in steps if (entry := newest(entries, Step(step), stage))}
    without = [entry for entry in done.values() if CHECKSUMS not in entry]
    if done and len(without) == len(done):
        logger.warning(
            "%s was started by a version that stored no checksums, so damaged files can't be detected.",
            run.directory.path,
        )
    lost = {
        (step, stage): found
        for (step, stage), entry in done.items()
        if (found := list(_damaged(run, step, stage, entry)))
    }
    _refuse_another_journal(run, done, lost)
    for (step, stage), found in lost.items():  # all of them before anything is removed
        if reason := _why_not_again(run, step, stage, lost):
            raise RunDirectoryError(
                f"{_first_of(found)}. It can't be produced again: {reason} Restore it from a backup (`hub_backup` keeps "
                "one), or start a new run."
            )
    for (step, stage), found in lost.items():
        _give_up(run, step, stage, found)


def _refuse_another_journal(
    run: Run, done: Mapping[tuple[Step, str], Entry], lost: Mapping[tuple[Step, str], list[Damage]]
) -> None:
    """Raise if several steps have files that do not match the journal and no step has files that do."""
    is_whole = any(
        run.directory.stage(name).exists()
        for step, entry in done.items()
        if step not in lost
        for name in entry.get(CHECKSUMS, {})
    )
    others = [step for step, found in lost.items() if not all(one.is_missing for one in found)]
    if len(others) > 1 and not is_whole:
        raise RunDirectoryError(
            f"No file in {run.directory.path} matches {run.directory.journal}: it seems to be the journal of another run. "
            "Restore it from a backup, or start a new run."
        )


def _forget_damaged_best(run: Run) -> None:
    """Remove an unreadable `best.json`: the best stage follows from the figures, and the file is written again."""
    path = run.directory.best
    try:
        best_stage(run.directory)
    except RunDirectoryError:
        logger.warning("%s is damaged and will be written again.", path)
        remove(path)


def _damaged(run: Run, step: Step, stage: str, entry: Entry) -> Iterator[Damage]:
    """Yield the damage to a step's files that are still needed."""
    if step is Step.TRAIN and not run.directory.model(stage).exists() and _was_given_up(run, stage):
        return
    if step is Step.GENERATE and not run.directory.generations(stage).exists() and run.done(Step.TRAIN, stage):
        return  # deleted to free space: they have been trained on, and generating them again may take hours
    found = list(damage(run.directory, entry))
    if step is Step.GENERATE and run.done(Step.TRAIN, stage):  # later iterations record those that they still need
        found = [one for one in found if one.path.parent != run.directory.start_logps]
    yield from found
    for folder in _stores(run, step, stage):
        if not any(one.path.parent == folder for one in found) and CHECKSUMS in entry:
            for path in GenerationStore(folder).damaged_shards():
                yield Damage(path, CHANGED if path.is_file() else GONE)


def _stores(run: Run, step: Step, stage: str) -> list[Path]:
    """Return the folders of the generation stores that a step fills."""
    if step is Step.GENERATE:
        return [run.directory.generations(stage)]
    if step is Step.EVALUATE or step in MEASURED_SETS:
        is_held_out = step is Step.EVALUATE
        results = run.directory.held_out(stage) if is_held_out else run.directory.measured_on(stage, step)
        return [folder for name in ("sampled", "greedy") if (folder := results / name).is_dir()]
    return []


def _was_given_up(run: Run, stage: str) -> bool:
    """Return whether `keep_iterations` may have deleted a model: a newer one was trained, and another one is the best."""
    one = Stage(stage)
    return (
        one.iteration >= 0
        and stage != best_stage(run.directory)
        and run.done(Step.TRAIN, Stage.of(one.iteration + 1, one.arm)) is not None
    )


def _first_of(found: Sequence[Damage]) -> str:
    """Describe the first three damaged files, and the number of others."""
    return "; ".join(map(str, found[:3])) + (f"; and {counted(len(found) - 3, 'file')} more" if len(found) > 3 else "")


def _give_up(run: Run, step: Step, stage: str, found: Sequence[Damage]) -> None:
    """Remove damaged files, and record that the step has to be run again."""
    run.journal.append(Step.LOST, stage, lost=step, damaged=[one.path.name for one in found])
    logger.warning("%s. Running again: %s: %s.", _first_of(found), stage, step)
    for path in _to_remove(run, step, stage, found):
        remove(path)


def _why_not_again(run: Run, step: Step, stage: str, lost: Container[tuple[Step, str]]) -> str | None:
    """Return why a step can't be run again, or None if it can.

    Args:
        run: the run.
        step, stage: the step.
        lost: all steps that will be run again.
    """
    needed = {} if step is Step.PREPARE else dict.fromkeys((Step.EVALUATE, *MEASURED_SETS), Stage(stage))
    if step in (Step.GENERATE, Step.TRAIN) and stage != START:
        one = Stage(stage)
        needed[step] = run.decisions.opponent(one.iteration) if one == Stage.of(one.iteration) else one.before
    needs = needed.get(step)
    if needs is None or not run.directory.model(needs).parent.is_dir() or run.directory.model(needs).is_dir():
        return None
    if (needs == run.given_stage and run.model is not None) or (Step.TRAIN, needs) in lost:
        return None
    return f"it needs the model of {needs}, which no longer exists."


def _to_remove(run: Run, step: Step, stage: str, found: Sequence[Damage]) -> list[Path]:
    if step is Step.PREPARE and stage in MEASURED_SETS:
        return [run.directory.measured_rows(stage)]
    if step is Step.PREPARE and stage == PAIRS:
        return [run.directory.pairs]
    if step is Step.PREPARE:
        tokenizer = [run.directory.tokenizer()] if any(_is_in(run.directory.tokenizer(), one) for one in found) else []
        return [run.directory.train_rows, run.directory.held_out_rows, *tokenizer]
    if step is Step.TRAIN:
        return [run.directory.model(stage), run.directory.ahead(stage)]
    lists = {one.path.parent for one in found if one.path.name in (STORE_MANIFEST, SHARD_CHECKSUMS)}
    return [*lists, *(one.path for one in found if one.path.parent not in lists)]


def _is_in(folder: Path, one: Damage) -> bool:
    return folder in one.path.parents


def check_made_again(run: Run, stage: str, files: Mapping[str, Sequence[Any]]) -> None:
    """Raise if a model that was damaged and retrained differs from the one that later iterations started from.

    Args:
        run: the run.
        stage: stage of the model.
        files: checksums of the model's files, as they will be recorded.

    Raises:
        RunDirectoryError: if the model differs; it is not recorded.
    """
    before = next((entry for entry in reversed(run.journal.entries()) if is_of(entry, Step.TRAIN, stage)), None)
    if before is None or CHECKSUMS not in before or before[CHECKSUMS] == files or not _stands_on(run, stage):
        return
    raise RunDirectoryError(
        f"The model of {stage} was damaged and has been retrained, but came out different (another machine, or another "
        "version of a library), and later iterations started from the original model. Restore "
        f"{run.directory.model(stage)} from a backup, or start a new run."
    )


def _stands_on(run: Run, stage: str) -> bool:
    """Return whether anything produced since then started from a stage's model."""
    after = [t for t in range(run.play.num_iterations) if run.decisions.opponent(t) == stage and run.has_begun(t)]
    if Stage(stage).arm in (SELF_PLAY, BEFORE_SFT) and run.done(Step.TRAIN, Stage.after_dpo(stage)) is not None:
        return True
    later = Stage.of(Stage(stage).iteration + 1, Stage(stage).arm)
    return bool(after) or (later.before == stage and run.done(Step.TRAIN, later) is not None)
