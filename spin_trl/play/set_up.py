"""Sets up a run before its first phase: claims the directory, freezes the settings, and checks or stores start and data."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from ..config.unusual import long_warmup
from ..files import JOURNAL
from ..run.adapter_bases import follow
from ..run.contents import TRANSIENT
from ..run.journal import Step
from ..run.run import LAUNCHED, Run
from ..run.settings import freeze, renew
from ..run.stage import Stage
from ..run.trust import TrustedRuns, check_trust, code_inside, named_code
from .given import keep_given
from .mend import mend
from .prepare import prepare_data
from .rehearse import processes_of
from .same_start import check_same_start, is_same_start, point_adapters_at_start

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """The datasets of a run, before they are prepared.

    Attributes:
        train: human responses.
        held_out: held-out responses, or None to hold out a fraction of the prompts.
        measured: further sets to measure on (test, retention), by name.
        pairs: preference pairs of DPO on top, or None.
    """

    train: Dataset
    held_out: Dataset | None
    measured: Mapping[str, Dataset]
    pairs: Dataset | None


def claim_directory(run: Run, recipe: Path | None) -> None:
    """Claim the run's directory, or check that it belongs to the run.

    Args:
        run: the run.
        recipe: file of the recipe, which may be in the run directory.

    Raises:
        RunDirectoryError: if the directory belongs to another run, or contains other files.
    """
    run.directory.claim(run.play.existing_run, recipe)
    if not run.directory.ownership.has_begun():
        # An earlier attempt left no results, and what it did leave may belong to other settings.
        run.directory.clear(keep=TRANSIENT)
    run.directory.own(JOURNAL)


def set_up(
    run: Run,
    data: RunData,
    settings: dict[str, Any],
    *,
    trust_run: bool,
    is_alone: bool = True,
    asked: Collection[str] = (),
    note: str = "",
) -> None:
    """Do what all phases rely on: freeze the settings, check or save the start, and prepare the data.

    Args:
        run: the run, whose directory has been claimed.
        data: datasets of the run.
        settings: all settings as a recipe.
        trust_run: whether to run code that came with the directory even if it was copied from elsewhere.
        is_alone: whether no other process is working on this run. Otherwise nothing is repaired or written.
        asked, note: as in [`freeze`].

    Raises:
        DataError: if the data can't be used, or has changed since the run was started.
        RunDirectoryError: if the directory belongs to a run with other settings or another start.
    """
    if PartialState().is_main_process:
        freeze(run.directory, settings, lambda: is_same_start(run), asked=asked, note=note)
        _check_trust(run, settings, trust_run)
        if LAUNCHED not in os.environ:  # otherwise the process that launched this one has just checked
            check_same_start(run)
        if LAUNCHED not in os.environ and is_alone:
            follow(run.directory)
        if run.given is not None:
            keep_given(run, run.given)
        if LAUNCHED not in os.environ and is_alone:
            mend(run)
    PartialState().wait_for_everyone()
    prepare_data(run, data.train, data.held_out, data.measured, data.pairs if run.play.then_dpo else None)
    if PartialState().is_main_process and is_alone:
        point_adapters_at_start(run)
        _say_of_warmup(run)
        renew(run.directory, settings)
    PartialState().wait_for_everyone()


def _say_of_warmup(run: Run) -> None:
    """Warn about a long warm-up, now that the number of steps is known. The launcher has warned for a launched phase."""
    if LAUNCHED in os.environ or run.done(Step.TRAIN, Stage.of(0)):
        return
    processes = processes_of(run.play.accelerate_config)
    for sentence in long_warmup(run.args, run.play, len(run.self_play_rows()), processes):
        logger.warning(sentence)


def _check_trust(run: Run, settings: Mapping[str, Any], trust_run: bool) -> None:
    """Check that no code that came with the directory runs untrusted. Code named by the user's settings is trusted."""
    code, directory = named_code(settings), run.directory.ownership
    inside = code_inside(directory, code)
    if inside and trust_run:
        TrustedRuns().add(directory, code)
    elif inside and LAUNCHED not in os.environ:
        check_trust(directory, inside if not TrustedRuns().trusts(directory, code) else {}, is_trusted=False)
    TrustedRuns().add(directory, code)
