"""Prepares the preference pairs for DPO on top: once, apart from the held-out prompts and the test set, and then unchanged.

They may be added to a run that has begun, even to one that has finished, since no iteration depends on them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from datasets import Dataset

from ..counts import counted
from ..data.arrow import save_rows
from ..data.bad_rows import BadRows
from ..data.preferences import PREFERENCE, pairs_digest, read_pairs
from ..errors import DataError
from ..files import remove
from ..models.lineage import dataset_origin
from ..run.integrity import recorded
from ..run.journal import PAIRS, Step, is_of
from ..run.run import LAUNCHED, Run
from ..run.stage import DPO, Stage
from ..training.pair_ends import difference_in_ends
from .prepare_measured import overlap_in_words

logger = logging.getLogger(__name__)


def prepare_pairs(run: Run, dataset: Dataset, kept_apart: Callable[[], set[str]]) -> None:
    """Check and store the pairs once; after that, only check that they are still the same.

    Args:
        run: the run, whose other data has been prepared.
        dataset: preference pairs.
        kept_apart: function that returns the groups of the held-out prompts and of those of the test set. Pairs with these
            prompts are left out.

    Raises:
        DataError: if the pairs can't be used, or have changed since a model was trained on them.
    """
    known = next((one for one in reversed(run.journal.entries()) if is_of(one, Step.PREPARE, PAIRS)), None)
    is_there = run.done(Step.PREPARE, PAIRS) is not None
    if is_there and LAUNCHED in os.environ:
        return  # the process that launched this one has compared the data
    digest = pairs_digest(dataset)
    is_same = known is not None and known["dataset"] == digest
    if known is not None and not is_same and (stages := trained_stages(run)):
        raise DataError(
            f"The {PREFERENCE} data has changed since {', '.join(stages)} in {run.directory.path} "
            f"{'was' if len(stages) == 1 else 'were'} trained on it (`dpo_name`: digest {known['dataset']} then, {digest} "
            "now). Restore the data, or start a new run."
        )
    if not is_there or not is_same:
        _prepare_once(run, dataset, digest, kept_apart)


def trained_stages(run: Run) -> list[Stage]:
    """Return the stages that DPO has begun to train."""
    folders = (run.directory.model, run.directory.training)
    of_dpo = [stage for stage in run.directory.stages() if stage.arm == DPO]
    return [stage for stage in of_dpo if any(folder(stage).is_dir() for folder in folders)]


def _prepare_once(run: Run, dataset: Dataset, digest: str, kept_apart: Callable[[], set[str]]) -> None:
    found, left_out = read_pairs(dataset, BadRows(run.args.bad_rows, run.args.bad_rows_max)).without(kept_apart())
    if not len(found.rows):
        raise DataError(
            f"All prompts of the {PREFERENCE} data are also held out or in the test data ({counted(left_out, 'row')}), so "
            "nothing is left for DPO to train on. Name other data in `dpo_name`."
        )
    news = [overlap_in_words(left_out, PREFERENCE, "held-out or test")] if left_out else []
    ends = difference_in_ends(found.rows, run.tokenizer(), run.template())
    news += [ends] if ends is not None else []
    for remark in news:
        logger.warning("%s", remark)
    run.directory.own("data")
    remove(run.directory.pairs)  # pairs that nothing was trained on
    saved = save_rows(found.rows, run.directory.pairs)
    origin = dataset_origin(dataset, run.sources.get("dpo_name"))
    run.journal.append(
        Step.PREPARE,
        PAIRS,
        dataset=digest,
        rows=len(found.rows),
        bad_rows=found.skipped,
        identical=found.identical,
        overlap=left_out,
        remarks=[*found.remarks, *news],
        **({} if origin is None else {"origin": origin.as_dict()}),
        files=recorded("data/dpo", {path.name: checksum for path, checksum in saved.items()}),
    )
