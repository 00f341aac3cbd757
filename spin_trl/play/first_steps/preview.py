"""Prepares the rows of a recipe without loading the model: the same tokens that a run would train on.

In a large dataset only an evenly spaced sample of rows is counted, unless all are requested.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ...config.recipe import Recipe
from ...data.bad_rows import SKIP, BadRow, BadRows
from ...data.columns import is_text, read_columns
from ...data.prepare import EncodedResponse, EncodedRows, Prepared, encode_rows
from ...data.template.pair_template import PairTemplate
from ...errors import DataError, SpinError
from ...run.directory import RunDirectory
from ...run.journal import RETENTION, TEST
from ...run.run import Run
from ...training.scratch import build_tokenizer, texts_of
from ...training.unplayable import of_configuration
from ..divide import divide
from ..judged import whole_permission
from ..prepare import against_rows, check_human_responses, encoding, scored_columns_of
from ..rehearse import config_of, model_name
from .pieces import Limit, Piece, in_pieces
from .preview_pairs import PreviewedPairs, preview_pairs

COUNTED = 5000
"""Number of rows up to which all rows of a dataset are counted."""

COUNTED_OF_MORE = 2000
"""Number of rows that are counted in a larger dataset."""

SHOWN = 3
"""Default number of rows to show."""


@dataclass(frozen=True)
class ShownResponse:
    """A response of a row with its prompt, in pieces, or the reason it is left out.

    Attributes:
        encoded: tokens of the response, and whether it is used.
        pieces: pieces of prompt and response, in order; empty if the response is left out.
        is_traced: whether it is known which pieces come from the row itself.
        cut: number of tokens truncated by `max_length`.
    """

    encoded: EncodedResponse
    pieces: list[Piece] = field(default_factory=list)
    is_traced: bool = True
    cut: int = 0


@dataclass(frozen=True)
class Counts:
    """How the counted rows are used.

    Attributes:
        prepared: rows that are trained on or held out, and remarks on all of them.
        bad: rows that can't be used, with the reasons.
        too_long: number of rows whose prompts leave no room for a response.
        lengths: tokens of prompts, and of real responses, both sorted.
        cut: number of responses truncated by `max_length`.
    """

    prepared: Prepared
    bad: list[BadRow]
    too_long: int
    lengths: tuple[list[int], list[int]]
    cut: int


@dataclass(frozen=True)
class Preview:
    """A recipe's rows as a run would prepare them.

    Attributes:
        recipe: the recipe.
        total: number of rows of the training data.
        counted: number of these rows that were counted.
        columns: columns of the data that are read.
        tokenizer: the tokenizer.
        ends: tokens that end a response.
        has_template: whether the chat template is applied to the texts.
        shown: the requested rows.
        counts: counts for the training data; None if no row can be used.
        train, held_out: how many of the counted rows are trained on, and held out.
        held_out_total: number of rows of separate held-out data, or None.
        measured: numbers of rows of the test data and of the retention data, by the names of the settings.
        pairs: the preference pairs for DPO on top; None without `dpo_name`.
        remarks: sentences about anything worth noting.
        refusals: reasons a run would refuse these rows.
    """

    recipe: Recipe
    total: int
    counted: int
    columns: list[str]
    tokenizer: PreTrainedTokenizerBase
    ends: list[str]
    has_template: bool
    shown: list[ShownResponse]
    counts: Counts | None
    train: int
    held_out: int
    held_out_total: int | None
    measured: Mapping[str, int]
    pairs: PreviewedPairs | None
    remarks: list[str]
    refusals: list[str]

    @property
    def is_sample(self) -> bool:
        """Whether some rows were not counted."""
        return self.counted < self.total


def preview(recipe: Recipe, *, rows: int = SHOWN, at: int = 0, every: bool = False) -> Preview:
    """Prepare the rows of a recipe as a run does, without storing anything.

    Args:
        recipe: the recipe, with its loading settings applied; its `run_dir` is the run's.
        rows: number of rows to show.
        at: number of the first row to show (0-based).
        every: count all rows, however many there are.

    Raises:
        RecipeError, DataError: as the run would. Rows that can't be used do not raise; they are listed in `refusals`.
    """
    # Long, since it follows a run's preparation of its rows, step by step.
    skips = recipe.args.bad_rows == SKIP
    stored = recipe.data.train_as_stored(bad_as_rows=skips)
    check_human_responses(stored)
    total = len(stored)
    if not 0 <= at < total:
        raise DataError(f"`--at` is {at}, but the rows are numbered from 0 to {total - 1}.")
    wanted = range(at, min(at + rows, total))
    numbers = _numbers_of_counted(total, wanted, every=every)
    dataset = recipe.data.as_set(_chosen(stored, numbers))
    run = _run_of(recipe, dataset)
    template = run.template()
    options = encoding(run)
    encoded = encode_rows(dataset, template, numbers=numbers, **options)
    others, held_out_total = None, None
    held_out = recipe.data.held_out_as_stored(bad_as_rows=skips)
    if held_out is not None:
        held_out_total = len(held_out)
        chosen = _numbers_of_counted(held_out_total, range(0), every=every)
        few = recipe.data.as_set(_chosen(held_out, chosen))
        others = encode_rows(few, template, name="held-out", numbers=chosen, **options)
    refusals: list[str] = []
    found = _counts_of(encoded, run, refusals)
    of_held_out = None if others is None else _counts_of(others, run, refusals)
    train, out, remarks = 0, 0, [encoded.unused] if encoded.unused else []
    if found is not None and (others is None or of_held_out is not None):
        other_rows = None if of_held_out is None else of_held_out.prepared.rows
        remarks = [remark for one in (found, of_held_out) if one is not None for remark in one.prepared.remarks]
        try:
            kept, out_rows, news = divide(run.play, found.prepared.rows, other_rows)
            remarks += news
            train, out = len(kept), len(out_rows)
            refusals += [
                *of_configuration(config_of(run), run.args, model_name(run)),
                *against_rows(run, (kept, out_rows)),
            ]
        except DataError as error:
            refusals.append(str(error))
    measured = _look_at_measured(recipe, run, template, refusals, remarks, every=every)
    pairs = preview_pairs(recipe, template, range(at, at + rows), every=every)
    if pairs is not None:
        refusals += pairs.refusals
        remarks += pairs.remarks
    return Preview(
        recipe=recipe,
        total=total,
        counted=len(numbers),
        columns=read_columns(dataset),
        tokenizer=template.tokenizer,
        ends=[str(template.tokenizer.convert_ids_to_tokens(token)) for token in template.eos_ids],
        has_template=not is_text(dataset),
        shown=list(_shown_responses(run, encoded, {number: numbers.index(number) for number in wanted})),
        counts=found,
        train=train,
        held_out=out,
        held_out_total=held_out_total,
        measured=measured,
        pairs=pairs,
        remarks=remarks,
        refusals=list(dict.fromkeys(refusals)),
    )


def _look_at_measured(
    recipe: Recipe, run: Run, template: PairTemplate, refusals: list[str], remarks: list[str], *, every: bool
) -> dict[str, int]:
    """Count the rows of the test data and of the retention data, and add what a run would refuse or report about them.

    Prompts that they share with the training data are only found when a run prepares all rows.
    """
    counts = {}
    for kind, stored in recipe.data.measured_as_stored(bad_as_rows=recipe.args.bad_rows == SKIP).items():
        numbers = _numbers_of_counted(len(stored), range(0), every=every)
        rows = recipe.data.as_set(_chosen(stored, numbers))
        name = {"test": TEST, "retain": RETENTION}[kind]
        try:
            encoded = encode_rows(
                rows, template, name=name, numbers=numbers, **encoding(run, scored_columns_of(run, name))
            )
            found = _counts_of(encoded, run, refusals)
        except DataError as error:
            refusals.append(str(error))
            continue
        remarks += [] if found is None else found.prepared.remarks
        counts[f"{kind}_name"] = len(stored)
    return counts


def _numbers_of_counted(total: int, wanted: range, *, every: bool) -> list[int]:
    """Return the numbers of the rows to count: all, or an evenly spaced sample along with those that are shown."""
    if every or total <= COUNTED:
        return list(range(total))
    return sorted({*range(0, total, -(-total // COUNTED_OF_MORE)), *wanted})


def _chosen(dataset: Dataset, numbers: Sequence[int]) -> Dataset:
    return dataset if len(numbers) == len(dataset) else dataset.select(numbers)


def _run_of(recipe: Recipe, dataset: Dataset) -> Run:
    """Return the run of a recipe, set up as far as its rows need. From scratch, the tokenizer is built from these rows."""
    model = recipe.model.model_name_or_path
    directory = RunDirectory(str(recipe.play.run_dir))
    permission = whole_permission(recipe.play, directory)
    run = Run(directory, recipe.args, recipe.play, model, recipe.start, permission=permission)
    if model is None and not run.directory.tokenizer().exists():
        length = run.args.max_length or 2048
        run.processing_class = build_tokenizer(texts_of(dataset), run.start, length, chats=not is_text(dataset))
    return run


def _counts_of(encoded: EncodedRows, run: Run, refusals: list[str]) -> Counts | None:
    """Count how rows are used, and add what a run would refuse to `refusals`. Return None if no row can be used."""
    responses = list(encoded.responses())
    policy = BadRows(run.args.bad_rows, run.args.bad_rows_max)
    try:
        prepared = encoded.counted(policy)
    except SpinError as error:
        refusals.append(str(error))
        if not any(one.is_kept for one in responses):
            return None
        prepared = encoded.counted(BadRows(SKIP, max(len(encoded.source), 1)))
        # The refusal already names these rows.
        prepared.remarks[:] = [one for one in prepared.remarks if "`bad_rows: skip`" not in one]
    bad = [(one.row, one.problem) for one in responses if one.is_bad]
    kept = [one for one in responses if one.is_kept]
    lengths = sorted(len(one.prompt_ids) for one in kept), sorted(len(one.real_ids) for one in kept)
    too_long = len({one.row for one in responses if not (one.is_kept or one.is_bad)})
    # Notes cover only responses that lose their end, which does not happen with `truncation_mode: keep_end`.
    limit = math.inf if run.args.max_length is None else run.args.max_length
    cut = sum(len(one.prompt_ids) + len(one.real_ids) > limit for one in kept)
    return Counts(prepared, bad, too_long, lengths, cut)


def _shown_responses(run: Run, encoded: EncodedRows, places: Mapping[int, int]) -> Iterator[ShownResponse]:
    """Yield the responses of some rows, in pieces.

    Args:
        run: run with the settings.
        encoded: all rows.
        places: positions of the rows to show in the encoded dataset, by row number.
    """
    by_row: dict[int, list[EncodedResponse]] = {number: [] for number in places}
    for one in encoded.responses():
        if one.row in by_row:
            by_row[one.row].append(one)
    for number, responses in by_row.items():
        can_be_written = not any(one.is_bad for one in responses)
        written = encoded.own_texts(places[number]) if can_be_written else []
        for index, one in enumerate(responses):
            if one.is_kept and written:
                yield _in_pieces(run, one, encoded.encoder.template.tokenizer, *written[index])
            else:
                yield ShownResponse(one)


def _in_pieces(
    run: Run, one: EncodedResponse, tokenizer: PreTrainedTokenizerBase, text: str, own: list[tuple[int, int]]
) -> ShownResponse:
    limit = Limit(run.args.max_length, keeps_start=run.args.truncation_mode == "keep_start")
    pieces, is_traced = in_pieces(tokenizer, one.prompt_ids, one.real_ids, limit, text, own)
    return ShownResponse(one, pieces, is_traced, limit.beyond(len(one.prompt_ids) + len(one.real_ids)))
