"""The data of a run: prepared and split once, and checked to be unchanged whenever the run is resumed."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from ..counts import counted
from ..data.arrow import save_rows
from ..data.bad_rows import BadRows
from ..data.columns import is_sft
from ..data.held_out import (
    DROP_HELD_OUT,
    GROUP,
    REFUSE_OVERLAP,
    refuse_shared,
    without_groups,
)
from ..data.kept_columns import with_kept_columns
from ..data.keys import RowKeys, row_keys
from ..data.prepare import Prepared, prepare_and_count
from ..data.unused import not_sft
from ..errors import DataError, RecipeError, noted, refuse_unplayable
from ..evaluation.scoring import ScorerColumns, columns_of
from ..files import DEFINITION, checksums_in, definition_of
from ..models.lineage import Origin, dataset_origin, model_origin
from ..models.vocabulary import check_tokens, load_embeddings_size
from ..run.integrity import recorded
from ..run.journal import DATA, TEST, Entry, Step, is_of
from ..run.run import LAUNCHED, Run
from ..run.settings import frozen_settings
from ..run.stage import START
from ..training.unplayable import of_lengths, positions
from .divide import divide
from .prepare_measured import NAMED_BY, overlap_in_words, prepare_measured
from .prepare_pairs import prepare_pairs
from .rehearse import config_of
from .supervise import make_tokenizer

logger = logging.getLogger(__name__)

LEFT_OUT_FOR_TEST = "left_out_for_test"
"""Key in the journal's entry on the data: the number of rows left out because their prompts are in the test set."""

PACKAGES = ("spin_trl", "torch", "transformers", "trl", "peft", "datasets", "accelerate")


def prepare_data(
    run: Run,
    train: Dataset,
    held_out: Dataset | None,
    measured: Mapping[str, Dataset] = MappingProxyType({}),
    pairs: Dataset | None = None,
) -> None:
    """Tokenise the data and hold some out, once; after that, only check that it is still the same data.

    Args:
        run: the run.
        train: human responses.
        held_out: human responses to evaluate on; None: a fraction of the prompts is held out.
        measured: the test set and the retention set, by their names ([`TEST`], [`RETENTION`]), if there are any.
        pairs: preference pairs for DPO on top, if it is asked for.

    Raises:
        DataError: if a row can't be used, or the data has changed since the run was started.
        RecipeError: if a setting needs held-out prompts and there are none.
    """
    state, groups = PartialState(), frozenset[str]()
    known = next((entry for entry in reversed(run.journal.entries()) if is_of(entry, Step.PREPARE, DATA)), None)
    if state.is_main_process and known is not None and LAUNCHED not in os.environ:
        # For a launched phase, the process that launched it has already compared the data.
        definition = definition_of(known["dataset"])
        for name, found in _digests(row_keys(train, definition), held_out, definition).items():
            if known.get(name) != found:
                raise DataError(
                    f"The dataset has changed since {run.directory.path} was started ({name}: {known.get(name)} then, "
                    f"{found} now{_other_name(run, name)}), so its generations no longer fit. Restore the data, or "
                    "start a new run."
                )
    if run.model is None:
        make_tokenizer(run, train)
    if state.is_main_process:
        if known is not None:
            _check_template(run, known.get("template"))
        if run.done(Step.PREPARE, DATA) is None:  # the first time, or after the rows were lost
            keys = row_keys(train)
            digests, apart = _digests(keys, held_out), _to_keep_apart(run, measured.get(TEST), known)
            groups = _prepare(run, train, held_out, keys, digests, apart)
        prepare_measured(run, measured, partial(_checked, run), lambda: groups or _groups_of(run, train, held_out))
        if pairs is not None:
            prepare_pairs(run, pairs, lambda: _groups_apart(run, train, held_out, measured.get(TEST)))
    state.wait_for_everyone()
    by_gap = [objective.asks_for_gap(settings) for objective, settings in run.args.objectives]
    if any(by_gap) and run.play.num_iterations > 1 and not len(run.rows(held_out=True)):
        raise RecipeError(
            f"`{max(by_gap)}` depends on an iteration's gap on held-out prompts, but none are held out. Raise "
            "`held_out_fraction`, set `held_out_name`, or choose another schedule."
        )
    if run.play.human_review is not None and not len(run.rows(held_out=True)):
        raise RecipeError(
            "`human_review` lets people compare answers to held-out prompts, but none are held out. Raise "
            "`held_out_fraction`, set `held_out_name`, or leave `human_review` out."
        )


def _digests(keys: RowKeys, held_out: Dataset | None, definition: int = DEFINITION) -> dict[str, str | None]:
    """Return the digests of both datasets, by their names in the journal."""
    return {"dataset": keys.digest, "held_out_dataset": held_out and row_keys(held_out, definition).digest}


def _check_template(run: Run, known: str | None) -> None:
    """Raise if a run whose rows are already tokenised would continue with a tokenizer that tokenises them differently.

    Raises:
        DataError: if the tokenizer, its chat template, or the ids that end a response have changed.
    """
    if known is None:
        return
    try:
        template = run.template()
    except DataError:  # a finished run may have outlived its model; code that still needs the model will raise
        return
    found = template.digest(definition_of(known))
    if found != known:
        raise DataError(
            f"The tokenizer, its chat template or the ids that end a response have changed since {run.directory.path} was "
            f"started (template: {known} then, {found} now), so its rows no longer fit. Restore them, or start a new run."
        )


def _other_name(run: Run, which: str) -> str:
    """Describe the data's name when the run was started and its name now, if they differ."""
    name = {"dataset": "dataset_name", "held_out_dataset": "held_out_name"}[which]
    before = frozen_settings(run.directory).get(name) if run.directory.recipe.is_file() else None
    now = run.sources.get(name)
    return f"; {name}: {before!r} then, {now!r} now" if before != now else ""


def _prepared(
    run: Run, dataset: Dataset, name: str, keys: RowKeys | None = None, scored: ScorerColumns | None = None
) -> Prepared:
    """Tokenise a dataset; `name` names it in messages, and `scored` are the columns of its scorer, by default the run's."""
    return prepare_and_count(
        dataset,
        run.template(),
        keys=keys,
        name=name,
        bad_rows=BadRows(run.args.bad_rows, run.args.bad_rows_max),
        **encoding(run, scored),
    )


def _checked(run: Run, dataset: Dataset, name: str) -> Prepared:
    """Tokenise the test set or the retention set, and raise if the model can't be measured on its rows."""
    if not is_sft(dataset):
        raise DataError(f"`{NAMED_BY[name]}`: {not_sft(dataset)}")
    scored = scored_columns_of(run, name)
    refuse_missing_columns(scored, dataset, f"{name} row")
    found = _prepared(run, dataset, name, scored=scored)
    refuse_unplayable(against_rows(run, (found.rows,)), DataError)
    rows = with_kept_columns(found.rows, dataset, scored.among(dataset.column_names))
    return dataclasses.replace(found, rows=rows)


def scored_columns_of(run: Run, name: str) -> ScorerColumns:
    """Return the columns of the test set or the retention set that its scorer takes."""
    scorer = run.scorer if name == TEST else run.retain_scorer
    return ScorerColumns() if scorer is None else columns_of(scorer)


def _to_keep_apart(run: Run, test: Dataset | None, known: Entry | None) -> Dataset | None:
    """Return the test set if its prompts are left out of the training data, or None.

    A test set that was added after the run had begun has no influence on the training data, even if the rows were lost and
    are prepared again.

    Raises:
        DataError: if the training data had been kept apart from another test set when its rows were lost.
    """
    if known is None:
        return None if test is None or run.play.held_out_overlap == DROP_HELD_OUT else test
    if not known.get(LEFT_OUT_FOR_TEST):
        return None
    digest = known.get("test_dataset")
    if test is None or row_keys(test, definition_of(digest)).digest != digest:
        raise DataError(
            f"The training rows of {run.directory.path} were lost, and can only be prepared again with the test data that "
            f"they were kept apart from (`test_name`; its digest is {digest}). Restore it, or start a new run."
        )
    return test


def _prepare(
    run: Run,
    train: Dataset,
    held_out: Dataset | None,
    keys: RowKeys,
    digests: dict[str, str | None],
    test: Dataset | None,
) -> frozenset[str]:
    """Tokenise, divide and store the data. Return the groups of all prompts.

    Args:
        run: the run.
        train, held_out: data of the run.
        keys: keys of the training data.
        digests: digests of the data, for the journal.
        test: test set whose prompts are left out of the data, or None.
    """
    # Long, since the journal entry records the results of all the steps before it.
    template = run.template()
    found = _prepared(run, train, "train", keys)
    others = [] if held_out is None else [_prepared(run, held_out, "held-out")]
    apart: dict[str, Any] = {}
    if test is not None:
        (found, *others), left_out = _kept_apart(run, _checked(run, test, TEST).rows, [found, *others])
        apart = {"test_dataset": row_keys(test).digest, LEFT_OUT_FOR_TEST: left_out}
    groups = frozenset(group for one in (found, *others) for group in one.rows[GROUP][:])
    rows, held_out_rows, news = divide(run.play, found.rows, others[0].rows if others else None)
    refuse_unplayable(against_rows(run, (rows, held_out_rows)), DataError)
    for remark in news:
        logger.warning("%s", remark)
    source, source_keys = (train, keys) if held_out is None else (held_out, None)
    scored = run.scorer_columns.among(source.column_names)
    held_out_rows = with_kept_columns(held_out_rows, source, scored, source_keys)
    held_out_notes = _counts(others[0]) if others else {}
    run.directory.own("data")
    files: dict[str, Any] = {}
    for dataset, folder in ((rows, run.directory.train_rows), (held_out_rows, run.directory.held_out_rows)):
        # Groups were only needed to split the rows.
        kept = dataset.remove_columns([column for column in (GROUP,) if column in dataset.column_names])
        saved = {path.name: checksum for path, checksum in save_rows(kept, folder).items()}
        files |= recorded(f"data/{folder.name}", saved)
    if run.model is None:
        files |= recorded(f"{START}/tokenizer", checksums_in(run.directory.tokenizer(), {}))
    run.journal.append(
        Step.PREPARE,
        DATA,
        **digests,
        **apart,
        template=template.digest(),
        train_rows=len(rows),
        held_out_rows=len(held_out_rows),
        left_out=found.too_long,
        remarks=[*(remark for one in (found, *others) for remark in one.remarks), *news],
        bad_rows=sum(one.skipped for one in (found, *others)),
        notes=_counts(found),
        **({"held_out_notes": held_out_notes} if held_out_notes else {}),
        versions={package: _version(package) for package in PACKAGES},
        origins=_origins_of(run, train, held_out),
        files=files,
    )
    return groups


def _groups_of(run: Run, train: Dataset, held_out: Dataset | None) -> frozenset[str]:
    """Return the groups of all prompts that may have been trained on or held out, by tokenising the data again."""
    datasets = [(train, "train"), *([] if held_out is None else [(held_out, "held-out")])]
    return frozenset(group for dataset, name in datasets for group in _prepared(run, dataset, name).rows[GROUP][:])


def _groups_apart(run: Run, train: Dataset, held_out: Dataset | None, test: Dataset | None) -> set[str]:
    """Return the groups of the prompts that no model is trained on: those held out and those of the test set.

    Prepared rows do not keep their groups, so the data is tokenised again, usually from the cache, and matched by its keys.
    """
    source = (train, "train") if held_out is None else (held_out, "held-out")
    apart = [(_prepared(run, *source).rows, run.rows(held_out=True))]
    apart += [] if test is None else [(_checked(run, test, TEST).rows, run.measured_rows(TEST))]
    found = set[str]()
    for everything, stored in apart:
        keys = set(stored["key"][:])
        found |= {group for key, group in zip(everything["key"], everything[GROUP], strict=True) if key in keys}
    return found


def _kept_apart(run: Run, test: Dataset, others: Sequence[Prepared]) -> tuple[list[Prepared], int]:
    """Leave the test prompts out of the training data and of separate held-out data.

    Returns:
        The data without them, and the number of rows left out.

    Raises:
        DataError: if the data shares prompts and the settings refuse that, or nothing is left.
    """
    groups, count, kept = set(test[GROUP][:]), 0, []
    for one, name in zip(others, ("training", "held-out"), strict=False):
        if run.play.held_out_overlap == REFUSE_OVERLAP:
            refuse_shared(test, set(one.rows[GROUP][:]), "test", name)
        rows, left_out = without_groups(one.rows, groups)
        if not len(rows):
            raise DataError(
                f"All prompts of the {name} data are in the test data, too ({counted(left_out, 'row')}), so nothing is "
                "left of it. Name another `test_name`, or set `held_out_overlap: drop_held_out`."
            )
        news = [overlap_in_words(left_out, name, "test")] if left_out else []
        for remark in news:
            logger.warning("%s", remark)
        kept.append(dataclasses.replace(one, rows=rows, remarks=[*one.remarks, *news]))
        count += left_out
    return kept, count


def check_human_responses(dataset: Dataset) -> None:
    """Raise if self-play can't learn from a dataset.

    Raises:
        DataError: if it has no prompts with human responses, or contains ready-made pairs.
    """
    if not is_sft(dataset):
        raise DataError(
            f"Self-play needs prompts with human responses. {not_sft(dataset)} Use SPINTrainer for ready-made pairs "
            "(`chosen` and `rejected`): they leave nothing to iterate."
        )


def check_scorer_columns(run: Run, train: Dataset, held_out: Dataset | None) -> None:
    """Raise if the data to evaluate on lacks a column that the scorer can't do without.

    Raises:
        DataError: if a column is missing; the message names it.
    """
    if held_out is not None or run.play.held_out_fraction:
        refuse_missing_columns(run.scorer_columns, train if held_out is None else held_out, "held-out row")


def refuse_missing_columns(scored: ScorerColumns, dataset: Dataset, row: str) -> None:
    """Raise if a dataset lacks a column that a scorer can't do without; `row` names its rows in the message.

    Raises:
        DataError: if a column is missing; the message names it.
    """
    missing = sorted(scored.required - set(dataset.column_names))
    if missing:
        columns = ", ".join(f"`{name}`" for name in missing)
        raise DataError(
            f"The scorer needs {columns} of each {row}, but the columns are {dataset.column_names}. If a column has "
            f"another name, set `column_mapping`, like {{name: {missing[0]}}}."
        )


def encoding(run: Run, scored: ScorerColumns | None = None) -> dict[str, Any]:
    """Return the arguments of [`encode_rows`] that depend on a run's settings, and on the columns of a scorer.

    Args:
        run: the run.
        scored: columns of the scorer; None: those of the run's own.
    """
    args = run.args
    drops = args.max_length is not None and args.truncation_mode == "keep_start"
    return {
        "also_used": (run.scorer_columns if scored is None else scored).named,
        "max_length": args.max_length if drops else None,
        "positions": None if drops else positions(config_of(run)),
        "turn": args.train_on_turn,
        "num_proc": args.dataset_num_proc,
    }


def against_rows(run: Run, datasets: Sequence[Dataset]) -> list[str]:
    """Return what the model lacks for these rows: token embeddings, or positions."""
    found: list[str] = []
    name = "the start built by this run" if run.model is None else f"the model {run.model!r}"
    if run.model is not None:
        size = load_embeddings_size(run.model, run.args)
        noted(found, lambda: check_tokens(run.tokenizer(), size, name, datasets))
    return [*found, *of_lengths(config_of(run), run.args, name, datasets)]


def _counts(found: Prepared) -> dict[str, dict[str, int]]:
    """Return, for the journal, the number of responses each note applies to, and the first such row."""
    return {note: {"responses": count, "first_row": first} for note, (count, first) in found.notes.items()}


def _origins_of(run: Run, train: Dataset, held_out: Dataset | None) -> dict[str, dict[str, Any]]:
    """Return the origins of model and data, as far as they are known, for the cards."""
    named, found = run.sources, dict[str, Origin | None]()
    if run.model is not None and run.model != str(run.directory.model(run.given_stage)):
        found["model"] = model_origin(run.model, run.args.model_kwargs.get("revision"))
    found["data"] = dataset_origin(train, named.get("dataset_name"), named.get("dataset_revision"))
    if held_out is not None:
        found["held_out"] = dataset_origin(held_out, named.get("held_out_name"))
    return {name: origin.as_dict() for name, origin in found.items() if origin is not None}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
