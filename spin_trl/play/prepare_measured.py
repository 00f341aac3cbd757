"""Prepares the test set and the retention set: once, apart from the training data, and unchanged once a model was measured.

Both may be added to a run that has begun, even to one that has finished, since no model depends on them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping

from datasets import Dataset

from ..counts import counted
from ..data.arrow import save_rows
from ..data.held_out import GROUP, REFUSE_OVERLAP, refuse_shared, without_groups
from ..data.keys import row_keys
from ..data.prepare import Prepared
from ..errors import DataError
from ..files import DEFINITION, definition_of, remove
from ..models.lineage import dataset_origin
from ..run.integrity import recorded
from ..run.journal import DATA, RETENTION, TEST, Step, is_of
from ..run.run import LAUNCHED, Run

logger = logging.getLogger(__name__)

NAMED_BY = {TEST: "test_name", RETENTION: "retain_name"}
"""Settings that name the sets."""

STEPS = {TEST: Step.TEST, RETENTION: Step.RETENTION}
"""Steps that measure a model on the sets."""

Prepare = Callable[[Dataset, str], Prepared]
"""Function that tokenises a dataset; its second argument names the dataset in messages."""


def prepare_measured(
    run: Run, measured: Mapping[str, Dataset], prepare: Prepare, groups: Callable[[], Collection[str]]
) -> None:
    """Tokenise the test set and the retention set once; after that, only check that they are still the same.

    Args:
        run: the run, whose training data has been prepared.
        measured: the sets by name ([`TEST`], [`RETENTION`]), as far as there are any.
        prepare: function that tokenises a dataset.
        groups: function that returns the groups of the prompts that may have been trained on or held out. Rows of these
            prompts are left out of the sets.

    Raises:
        DataError: if a set can't be used, shares prompts with the data although the settings refuse that, or has changed
            since models were measured on it.
    """
    for name, dataset in measured.items():
        known = next((one for one in reversed(run.journal.entries()) if is_of(one, Step.PREPARE, name)), None)
        is_there = run.done(Step.PREPARE, name) is not None
        if is_there and LAUNCHED in os.environ:
            continue  # the process that launched this one has compared the data
        digest = row_keys(dataset, DEFINITION if known is None else definition_of(known["dataset"])).digest
        is_same = known is not None and known["dataset"] == digest
        if known is not None and not is_same and (stages := _measured_stages(run, name)):
            raise DataError(
                f"The {name} data has changed since {', '.join(stages)} in {run.directory.path} "
                f"{'was' if len(stages) == 1 else 'were'} measured on it (`{NAMED_BY[name]}`: digest {known['dataset']} "
                f"then, {digest} now), and figures on different prompts can't be compared. Restore the data, or start a "
                "new run."
            )
        if not is_there or not is_same:
            _prepare_set(run, name, dataset, digest, prepare, groups)


def _measured_stages(run: Run, name: str) -> list[str]:
    """Return the stages that have been measured on a set."""
    return list(dict.fromkeys(entry["stage"] for entry in run.journal.entries() if is_of(entry, STEPS[name])))


def _prepare_set(
    run: Run,
    name: str,
    dataset: Dataset,
    digest: str,
    prepare: Prepare,
    groups: Callable[[], Collection[str]],
) -> None:
    found, overlap, left_out = prepare(dataset, name), run.play.held_out_overlap, 0
    rows, remarks = found.rows, list(found.remarks)
    # The training data may have been kept apart from the test data when it was prepared.
    if (run.done(Step.PREPARE, DATA) or {}).get("test_dataset") != digest or name != TEST:
        known = groups()
        if overlap == REFUSE_OVERLAP:
            refuse_shared(rows, known, name, "training or held-out")
        rows, left_out = without_groups(rows, known)
    if not len(rows):
        raise DataError(
            f"All prompts of the {name} data are also in the training or held-out data ({counted(left_out, 'row')}), so "
            f"nothing is left to measure on. Name other data in `{NAMED_BY[name]}`."
        )
    if left_out:
        remarks.append(overlap_in_words(left_out, name, "training or held-out"))
        logger.warning("%s", remarks[-1])
    folder = run.directory.measured_rows(name)
    run.directory.own("data")
    remove(folder)  # rows of another set, on which nothing was measured
    saved = save_rows(rows.remove_columns([column for column in (GROUP,) if column in rows.column_names]), folder)
    origin = dataset_origin(dataset, run.sources.get(NAMED_BY[name]))
    run.journal.append(
        Step.PREPARE,
        name,
        dataset=digest,
        rows=len(rows),
        left_out=found.too_long,
        bad_rows=found.skipped,
        overlap=left_out,
        remarks=remarks,
        **({} if origin is None else {"origin": origin.as_dict()}),
        files=recorded(f"data/{name}", {path.name: checksum for path, checksum in saved.items()}),
    )


def overlap_in_words(count: int, name: str, other: str) -> str:
    """Describe how many rows of a dataset were left out because their prompts are also in other data."""
    are, they = ("is", "its prompt is") if count == 1 else ("are", "their prompts are")
    return f"{counted(count, 'row')} of the {name} data {are} left out: {they} also in the {other} data."
