"""What the rows of a recipe become, before a model is loaded: the same tokens that a run would make of them.

Of many rows some are counted, spread evenly over the data, unless all are asked for.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..config.recipe import Recipe
from ..data.bad_rows import SKIP, BadRow, BadRows
from ..data.columns import is_text, read_columns
from ..data.prepare import EncodedResponse, EncodedRows, Prepared, encode_rows
from ..errors import DataError, SpinError
from ..run.directory import RunDirectory
from ..run.run import Run
from ..training.scratch import build_tokenizer, texts_of
from ..training.unplayable import of_positions
from .prepare import against_rows, check_human_responses, divide, encoding
from .rehearse import config_of, model_name

COUNTED = 5000
"""Rows of a dataset, up to which all are counted."""

COUNTED_OF_MORE = 2000
"""Rows that are counted of a larger one."""

SHOWN = 3
"""Rows that are shown, unless other numbers are asked for."""


@dataclass(frozen=True)
class Piece:
    """A piece of a row, as the model sees it.

    Attributes:
        text: of its tokens.
        is_prompt: whether it belongs to the prompt.
        is_added: whether the chat template or the tokenizer has written it, not the row.
        is_special: whether it is a token that stands for no text.
        is_cut: whether it is beyond `max_length`, and so not trained on.
    """

    text: str
    is_prompt: bool
    is_added: bool = False
    is_special: bool = False
    is_cut: bool = False


@dataclass(frozen=True)
class ShownResponse:
    """A response of a row with its prompt, in pieces; or why it is left out.

    Attributes:
        encoded: its tokens, and what becomes of it.
        pieces: of it, in order; none where it is left out.
        is_traced: whether it is known which of them the row says itself.
        cut: how many tokens `max_length` cuts.
    """

    encoded: EncodedResponse
    pieces: list[Piece] = field(default_factory=list)
    is_traced: bool = True
    cut: int = 0


@dataclass(frozen=True)
class Counts:
    """What becomes of the rows that were counted.

    Attributes:
        prepared: rows that are trained on or held out, and what there is to say of all.
        bad: rows that can't be used, with the reasons.
        too_long: how many rows have prompts that leave no room for a response.
        lengths: tokens of prompts, and of real responses, in order of length.
        cut: how many responses `max_length` cuts.
    """

    prepared: Prepared
    bad: list[BadRow]
    too_long: int
    lengths: tuple[list[int], list[int]]
    cut: int


@dataclass(frozen=True)
class Preview:
    """What a recipe's rows become.

    Attributes:
        recipe: read.
        total: rows of the training data.
        counted: how many of them were looked at.
        columns: of the data, that are read.
        tokenizer: which makes the tokens.
        ends: tokens that end a response.
        has_template: whether a chat template is put around the texts.
        shown: the rows that were asked for.
        counts: of the training data; None where no row can be used.
        train, held_out: how many rows are trained on, and held out, of those that were looked at.
        held_out_total: rows of held-out data of its own, or None.
        remarks: sentences on all that was noticed.
        refusals: why a run would end with these rows.
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
    remarks: list[str]
    refusals: list[str]

    @property
    def is_sample(self) -> bool:
        """Whether some rows were not looked at."""
        return self.counted < self.total


def preview(recipe: Recipe, *, rows: int = SHOWN, at: int = 0, every: bool = False) -> Preview:
    """Prepare the rows of a recipe as a run does, and keep nothing.

    Args:
        recipe: read, and told how to load; its `run_dir` is the run's.
        rows: how many to show.
        at: number of the first of them (0-based).
        every: count all rows, however many there are.

    Raises:
        RecipeError, DataError: of the run. Rows that can't be used raise nothing: they are in `refusals`.
    """
    # Long, since it goes the way of a run's rows, step by step.
    skips = recipe.args.bad_rows == SKIP
    stored = recipe.data.train_as_stored(bad_as_rows=skips)
    check_human_responses(stored)
    total = len(stored)
    if not 0 <= at < total:
        raise DataError(f"`--at` is {at}; the rows are numbered from 0 to {total - 1}.")
    wanted = range(at, min(at + rows, total))
    numbers = _numbers_of_counted(total, wanted, every=every)
    dataset = recipe.data.as_set(_chosen(stored, numbers))
    run = _run_of(recipe, dataset)
    template = run.template()
    options = encoding(run.args)
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
                *of_positions(config_of(run), run.args, model_name(run)),
                *against_rows(run, (kept, out_rows)),
            ]
        except DataError as error:
            refusals.append(str(error))
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
        remarks=remarks,
        refusals=list(dict.fromkeys(refusals)),
    )


def _numbers_of_counted(total: int, wanted: range, *, every: bool) -> list[int]:
    """Numbers of the rows that are counted: all, or some from the beginning to the end, and those that are shown."""
    if every or total <= COUNTED:
        return list(range(total))
    return sorted({*range(0, total, -(-total // COUNTED_OF_MORE)), *wanted})


def _chosen(dataset: Dataset, numbers: Sequence[int]) -> Dataset:
    return dataset if len(numbers) == len(dataset) else dataset.select(numbers)


def _run_of(recipe: Recipe, dataset: Dataset) -> Run:
    """The run of a recipe, as far as its rows ask for it. One from scratch has the tokenizer that these rows give."""
    model = recipe.model.model_name_or_path
    run = Run(RunDirectory(str(recipe.play.run_dir)), recipe.args, recipe.play, model, recipe.start)
    if model is None and not run.directory.tokenizer().exists():
        length = run.args.max_length or 2048
        run.processing_class = build_tokenizer(texts_of(dataset), run.start, length, chats=not is_text(dataset))
    return run


def _counts_of(encoded: EncodedRows, run: Run, refusals: list[str]) -> Counts | None:
    """Count what becomes of rows. What a run would refuse is added to the refusals; None: no row is left."""
    responses = list(encoded.responses())
    policy = BadRows(run.args.bad_rows, run.args.bad_rows_max)
    try:
        prepared = encoded.counted(policy)
    except SpinError as error:
        refusals.append(str(error))
        if not any(one.is_kept for one in responses):
            return None
        prepared = encoded.counted(BadRows(SKIP, max(len(encoded.source), 1)))
        # The refusal has said which rows these are.
        prepared.remarks[:] = [one for one in prepared.remarks if "`bad_rows: skip`" not in one]
    bad = [(one.row, one.problem) for one in responses if one.is_bad]
    kept = [one for one in responses if one.is_kept]
    lengths = sorted(len(one.prompt_ids) for one in kept), sorted(len(one.real_ids) for one in kept)
    too_long = len({one.row for one in responses if not (one.is_kept or one.is_bad)})
    # Notes tell only of responses that lose their end, which they do not with `truncation_mode: keep_end`.
    limit = math.inf if run.args.max_length is None else run.args.max_length
    cut = sum(len(one.prompt_ids) + len(one.real_ids) > limit for one in kept)
    return Counts(prepared, bad, too_long, lengths, cut)


def _shown_responses(run: Run, encoded: EncodedRows, places: Mapping[int, int]) -> Iterator[ShownResponse]:
    """The responses of some rows, in pieces.

    Args:
        run: whose settings these are.
        encoded: all rows.
        places: of these rows in the dataset, by their numbers.
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
    """A response in pieces: divided where prompt and response meet, at special tokens, and where `max_length` cuts."""
    ids = [*one.prompt_ids, *one.real_ids]
    whole = _text_of(tokenizer, ids)

    def place_of(count: int) -> int:
        """Where so many tokens end in the text: a token alone may read otherwise."""
        return min(len(_text_of(tokenizer, ids[:count])), len(whole))

    beyond = max(len(ids) - run.args.max_length, 0) if run.args.max_length is not None else 0
    keeps_start = run.args.truncation_mode == "keep_start"
    cut = (place_of(len(ids) - beyond), len(whole)) if keeps_start else (0, place_of(beyond))
    special = [
        (place_of(index), place_of(index + 1))
        for index, token in enumerate(ids)
        if token in tokenizer.added_tokens_decoder and tokenizer.added_tokens_decoder[token].special
    ]
    last = max((stop for _, stop in own), default=0)
    offset = whole.find(text[:last])
    spans = [(start + offset, stop + offset) for start, stop in own] if offset >= 0 else [(0, len(whole))]
    border = place_of(len(one.prompt_ids))
    edges = sorted({0, border, len(whole), *(edge for span in (*spans, *special, cut) for edge in span)})
    pieces = []
    for start, stop in itertools.pairwise(edges):
        is_special = _within(special, start)
        pieces.append(
            Piece(
                text=whole[start:stop],
                is_prompt=start < border,
                is_added=not _within(spans, start) or (is_special and offset < 0),
                is_special=is_special,
                is_cut=bool(beyond) and cut[0] <= start < cut[1],
            )
        )
    return ShownResponse(one, pieces, offset >= 0, beyond)


def _within(spans: Sequence[tuple[int, int]], place: int) -> bool:
    """Whether one of the spans, which are in order and apart, holds a place."""
    index = bisect.bisect_right(spans, (place, math.inf)) - 1
    return index >= 0 and spans[index][0] <= place < spans[index][1]


def _text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    found: Any = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(found)
