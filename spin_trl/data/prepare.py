"""Turn any SFT dataset into rows with a prompt and a real response as tokens, each with a stable key.

This module reads the formats that TRL reads (`messages`, `prompt` + `completion`, ShareGPT's `conversations`) and Alpaca's
`instruction` + `output`. Preference data (`chosen` and `rejected`, or UCLA's `real` and `generated`) is not handled here:
its pairs are given, and TRL tokenises them. Everything streams through Arrow files, so memory does not grow with the data.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, Features, List, Value
from trl.trainer.utils import remove_none_values

from ..counts import agreeing, counted
from ..errors import DataError, TemplateError
from ..files import json_digest, short_digest
from .arrow import remapped
from .bad_rows import BadRows, left_out, refusal_of_rows
from .caches import mapped
from .columns import PREPARED_COLUMNS, UNREADABLE, is_prepared, is_sft, read_columns, refuse_media
from .held_out import GROUP, group_of
from .keys import RowKeys, row_keys
from .messages import unexpected
from .notes import CUT, EARLY_END, FIELD, note_in_words, sentence_on_fields
from .nulls import Keys, given_arguments
from .reading.json_text import value_in
from .reading.kept import apart
from .template.arguments import wrong_arguments
from .template.markers import text_of
from .template.pair_template import EarlyEndError, EncodedPair, PairTemplate
from .turns import CONVERSATION, Turn, kept_of, tools_of, turns_of
from .unused import naming, not_sft

logger = logging.getLogger(__name__)

KEPT, TOO_LONG, BAD, BAD_TEMPLATE = "", "too long", "bad", "bad template"
"""Outcome of a row: it is trained on; its prompt leaves no room for a response; or it (or the template) is unusable."""

_ROW, _OUTCOME, _PROBLEM, _NOTES = "row", "outcome", "problem", "notes"
"""Columns with the outcome of each row. They are counted and removed once all rows are prepared."""

_FEATURES = Features(
    dict.fromkeys((*PREPARED_COLUMNS, CONVERSATION, GROUP, _OUTCOME, _PROBLEM), Value("string"))
    | {"prompt_ids": List(Value("int64")), "real_ids": List(Value("int64")), _ROW: Value("int64")}
    | {_NOTES: List(Value("string"))}
)
"""Declared in advance, because Arrow would infer them from the first rows, which may all be without tokens."""


@dataclass(frozen=True)
class Prepared:
    """Rows of token ids, and observations from preparing them.

    Attributes:
        rows: prepared rows.
        too_long: number of rows that were left out because their prompts leave no room for a response.
        skipped: number of rows that were left out because they can't be used (`bad_rows: skip`).
        notes: by note, the number of responses that have it, and the number (0-based) of the first row.
        remarks: all of the above in sentences, which have been logged as warnings.
    """

    rows: Dataset
    too_long: int = 0
    skipped: int = 0
    notes: dict[str, tuple[int, int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def prepare(dataset: Dataset, template: PairTemplate, **options: Any) -> Dataset:
    """Return the rows of [`prepare_and_count`], which takes the same arguments."""
    return prepare_and_count(dataset, template, **options).rows


def prepare_and_count(
    dataset: Dataset,
    template: PairTemplate,
    *,
    max_length: int | None = None,
    turn: str = "last",
    num_proc: int | None = None,
    keys: RowKeys | None = None,
    name: str = "train",
    bad_rows: BadRows | None = None,
    also_used: Collection[str] = (),
    positions: int | None = None,
) -> Prepared:
    """Turn an SFT dataset into rows of token ids (see `PREPARED_COLUMNS`), one for each response to train on.

    Args:
        dataset: any SFT dataset that [`is_sft`] accepts. A prepared dataset is returned unchanged.
        template: template that turns a prompt and its response into tokens.
        max_length: maximum number of tokens; rows whose prompt alone is this long are left out, as in DPOTrainer.
        turn: assistant turns to train on: `last`, `first` or `all`.
        num_proc: number of processes.
        keys: result of [`row_keys`], if already computed.
        name: name of the dataset, for messages.
        bad_rows: policy for rows that can't be used; None: refuse them.
        also_used: columns that a scorer uses, which are not reported as unused.
        positions: number of positions of the model; None: not known. Without `max_length`, a row whose prompt alone is this
            long can't be used. Of a long text, this is found without tokenising all of it.

    Raises:
        DataError: if rows can't be used (the message gives their 0-based numbers and what is wrong), or no row is left.
    """
    if is_prepared(dataset):
        return Prepared(dataset)
    encoded = encode_rows(
        dataset,
        template,
        max_length=max_length,
        turn=turn,
        num_proc=num_proc,
        keys=keys,
        name=name,
        also_used=also_used,
        positions=positions,
    )
    prepared = encoded.counted(bad_rows or BadRows())
    for remark in prepared.remarks:
        logger.warning("%s", remark)
    return prepared


@dataclass(frozen=True)
class EncodedResponse:
    """A response of a row and its outcome.

    Attributes:
        row: number of its row (0-based).
        outcome: `KEPT`, `TOO_LONG`, `BAD` or `BAD_TEMPLATE`.
        problem: reason why it can't be used, if it is bad.
        prompt_ids, real_ids: token ids; empty unless it is kept.
        notes: names of the notes on it ([`notes`]).
    """

    row: int
    outcome: str
    problem: str
    prompt_ids: list[int]
    real_ids: list[int]
    notes: list[str]

    @property
    def is_kept(self) -> bool:
        """Whether the response is trained on."""
        return self.outcome == KEPT

    @property
    def is_bad(self) -> bool:
        """Whether the response can't be used. A prompt that is too long does not count as bad."""
        return self.outcome in (BAD, BAD_TEMPLATE)


def encode_rows(
    dataset: Dataset,
    template: PairTemplate,
    *,
    max_length: int | None = None,
    turn: str = "last",
    num_proc: int | None = None,
    keys: RowKeys | None = None,
    name: str = "train",
    numbers: Sequence[int] | None = None,
    also_used: Collection[str] = (),
    positions: int | None = None,
) -> EncodedRows:
    """Turn all responses of an SFT dataset into token ids, and determine the outcome of each.

    Args:
        dataset: any SFT dataset that [`is_sft`] accepts.
        template, max_length, turn, num_proc, keys, name, also_used, positions: as in [`prepare_and_count`].
        numbers: row numbers, if the rows are a selection from a larger dataset; None: count from 0.

    Raises:
        DataError: if the dataset is not an SFT dataset, has no rows, or contains images, videos or sound.
    """
    if not is_sft(dataset):
        raise DataError(not_sft(dataset))
    if not len(dataset):
        raise DataError(f"The {name} dataset has no rows.")
    refuse_media(dataset)
    unused = naming(dataset, name, also_used)
    keys = keys or row_keys(dataset)
    read = read_columns(dataset)
    tools_are_structs = "tools" in read and _has_structs(dataset.features["tools"])
    given = given_arguments(dataset.select_columns(read))
    encoder = _Encoder(template, turn, max_length, given, tools_are_structs, positions)
    # Identified by everything that determines the result, not by a hash of this code's closures, which hold a tokenizer.
    identity: tuple[Any, ...] = (keys.digest, template.digest(), max_length, turn, read, 8)
    if numbers is not None:
        identity += (list(numbers),)
    if max_length is None and positions is not None:
        identity += (f"{positions} positions",)

    def encode(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        found = [
            encoded | {_ROW: index if numbers is None else numbers[index]}
            for index, *values in zip(indices, *batch.values(), strict=True)
            for encoded in encoder.responses(dict(zip(batch, values, strict=True)), keys.keys[index])
        ]
        return {column: [one[column] for one in found] for column in _FEATURES}

    rows = mapped(
        remapped(apart(dataset).select_columns(read)),
        encode,
        batched=True,
        batch_size=500,
        with_indices=True,
        num_proc=num_proc,
        remove_columns=read,
        features=_FEATURES,
        new_fingerprint=short_digest(repr(identity)),
        desc="Preparing prompts and real responses",
    )
    repeated = [position if numbers is None else numbers[position] for position in keys.keys.repeated()]
    return EncodedRows(rows, dataset, name, unused, encoder, repeated)


@dataclass(frozen=True)
class _Encoder:
    """Tokenises rows with the arguments of [`prepare_and_count`] and its findings about the dataset."""

    template: PairTemplate
    turn: str
    max_length: int | None
    given: Keys
    tools_are_structs: bool
    positions: int | None = None

    def responses(self, row: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
        """Yield a row's responses with their outcomes; a response that can't be used has a reason instead of tokens."""
        nothing = {**dict.fromkeys(_FEATURES, ""), "prompt_ids": [], "real_ids": [], _NOTES: []}
        try:
            yield from [nothing | encoded for encoded in self._encoded(row, key)]
        except DataError as error:
            outcome = BAD_TEMPLATE if isinstance(error, TemplateError) else BAD
            found = [EARLY_END] if isinstance(error, EarlyEndError) else []
            yield nothing | {_OUTCOME: outcome, _PROBLEM: str(error), _NOTES: found}

    def own_texts(self, row: dict[str, Any]) -> list[tuple[str, list[tuple[int, int]]]]:
        """Return each response's full text with the spans of the row's own texts in it ([`PairTemplate.own_texts`])."""
        options, turns = self._options(row), turns_of(row, self.turn, self.given)
        return [self.template.own_texts(turn.prompt, turn.response, **options) for turn in turns]

    def _options(self, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "tools": tools_of(row, is_struct=self.tools_are_structs),
            "chat_template_kwargs": _template_kwargs(row.get("chat_template_kwargs")),
        }

    def _encoded(self, row: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
        if row.get(UNREADABLE):
            raise DataError(row[UNREADABLE])
        options = self._options(row)
        conversation = group = ""
        most = math.inf if self.max_length is None else self.max_length
        too_long = self.max_length or self.positions or math.inf
        turns = list(turns_of(row, self.turn, self.given))
        for number, (found, encoded) in enumerate(zip(turns, self._tokens(turns, options, too_long), strict=True)):
            prompt, response = found.prompt, found.response
            # All turns of a conversation share the hash of its first prompt, so they are held out together or not at all.
            conversation, group = conversation or json_digest(found.hashed, 20), group or group_of(prompt)
            if encoded is None and self.max_length is None:
                raise DataError(
                    f"the prompt has at least as many tokens as the model has positions: {self.positions} "
                    "(`max_position_embeddings`). To leave out such rows, set `max_length` to at most this number, and no "
                    "`truncation_mode`"
                )
            if encoded is None:
                yield {_OUTCOME: TOO_LONG}
                continue
            if not encoded.prompt_ids:
                raise DataError("the prompt is empty, so the opponent has nothing to continue")
            is_cut = [CUT] if len(encoded.prompt_ids) + len(encoded.real_ids) > most else []
            yield {
                _OUTCOME: KEPT,
                "key": key if self.turn != "all" else f"{key}.{number}",
                "prompt_hash": conversation,
                "prompt_ids": encoded.prompt_ids,
                "real_ids": encoded.real_ids,
                "prompt": prompt if isinstance(prompt, str) else text_of(prompt[-1].get("content")),
                "real": response if isinstance(response, str) else text_of(response.get("content")),
                CONVERSATION: kept_of(prompt, response, options),
                GROUP: group,
                _NOTES: [*found.notes, *sorted(encoded.notes), *is_cut],
            }

    def _tokens(self, turns: list[Turn], options: dict[str, Any], too_long: float) -> Iterator[EncodedPair | None]:
        """Yield the tokens of a row's turns, each of whose prompts begins like the previous one; None if it is too long."""
        last = turns[-1]
        if isinstance(last.prompt, list) and isinstance(last.response, dict):
            messages, positions = [*last.prompt, last.response], [len(turn.prompt) for turn in turns]
            yield from self.template.encode_answers(messages, positions, **options, too_long=too_long)
        else:  # text has one turn
            assert isinstance(last.prompt, str)
            assert isinstance(last.response, str)
            yield self.template.encode_text(last.prompt, last.response, too_long)


@dataclass(frozen=True)
class EncodedRows:
    """All responses of a dataset, including those that are not trained on.

    Attributes:
        rows: prepared rows, with columns for the outcome of each.
        source: dataset that the rows come from.
        name: name of the dataset, for messages.
        unused: sentence about unused columns, or None.
        encoder: encoder that tokenised the rows.
        repeated: numbers of the rows (0-based) with the same content as an earlier row.
    """

    rows: Dataset
    source: Dataset
    name: str
    unused: str | None
    encoder: _Encoder
    repeated: list[int]

    def responses(self) -> Iterator[EncodedResponse]:
        """Yield all responses in the order of the rows."""
        for row in self.rows:
            ids = row["prompt_ids"], row["real_ids"]
            yield EncodedResponse(row[_ROW], row[_OUTCOME], row[_PROBLEM], *ids, row[_NOTES])

    def own_texts(self, place: int) -> list[tuple[str, list[tuple[int, int]]]]:
        """Return the text of each response of a row with its prompt, and the spans of the row's own texts in it.

        Args:
            place: position of the row in the dataset. None of its responses may be bad.
        """
        return self.encoder.own_texts(self.source.select_columns(read_columns(self.source))[place])

    def counted(self, policy: BadRows) -> Prepared:
        """Return the rows to train on, and counts of the others.

        Raises:
            DataError: if more rows can't be used than the policy allows, or no row is left.
        """
        found = _counted(self.rows, len(self.source), self.name, self.encoder.max_length, policy)
        found.remarks[:0] = [self.unused] if self.unused else []
        if self.repeated:
            many = len(self.repeated)
            found.remarks.append(
                f"{many:,} of {counted(len(self.source), 'row')} of the {self.name} dataset "
                f"{agreeing(many, 'repeats', 'repeat')} the prompt and response of an earlier row (first in row "
                f"{self.repeated[0]}). A response counts as often as it is there: remove what is not meant."
            )
        return found


def _counted(rows: Dataset, total: int, name: str, max_length: int | None, policy: BadRows) -> Prepared:
    """Select the rows to train on and summarise the others, or raise if there are too many bad rows or none left."""
    outcomes = rows[_OUTCOME][:]
    bad = [index for index, outcome in enumerate(outcomes) if outcome in (BAD, BAD_TEMPLATE)]
    chosen = rows.select(bad)
    found = list(zip(chosen[_ROW], chosen[_PROBLEM], strict=True))
    if len(bad) > policy.limit(total):
        error = TemplateError if outcomes[bad[0]] == BAD_TEMPLATE else DataError
        raise error(refusal_of_rows(found, total, name, policy))
    remarks = [left_out(found, total, name)] if bad else []
    kept = [index for index, outcome in enumerate(outcomes) if outcome == KEPT]
    if not kept and bad:
        raise DataError(
            f"No row of the {name} dataset is left: {len(bad):,} can't be used, and the others are too long."
        )
    if not kept:
        raise DataError(f"All prompts of the {name} dataset have {max_length} tokens (`max_length`) or more.")
    too_long = len({number for number, outcome in zip(rows[_ROW], outcomes, strict=True) if outcome == TOO_LONG})
    if too_long:
        remarks.append(
            f"{too_long:,} of {counted(total, 'row')} of the {name} dataset {agreeing(too_long, 'is', 'are')} left out: "
            f"{agreeing(too_long, 'its prompt has', 'their prompts have')} {max_length} tokens (`max_length`) or more."
        )
    if len(kept) < len(outcomes):
        rows = rows.select(kept)
    notes: dict[str, tuple[int, int]] = {}
    for number, noted in zip(rows[_ROW], rows[_NOTES], strict=True):
        for note in noted:
            count, first = notes.get(note, (0, number))
            notes[note] = (count + 1, first)
    fields = [note.removeprefix(FIELD) for note in notes if note.startswith(FIELD)]
    remarks += [sentence_on_fields(fields, name)] if fields else []
    others = {note: seen for note, seen in notes.items() if not note.startswith(FIELD)}
    remarks += [note_in_words(note, *seen, name, max_length) for note, seen in others.items()]
    return Prepared(rows.remove_columns([_ROW, _OUTCOME, _PROBLEM, _NOTES]), too_long, len(bad), notes, remarks)


def _template_kwargs(value: Any) -> dict[str, Any]:
    """Return a row's arguments for the chat template, given as a mapping or as JSON."""
    value = value_in(value, "`chat_template_kwargs` is") or {}
    if not isinstance(value, Mapping):
        raise unexpected("`chat_template_kwargs` is", value, "a mapping")
    if (reason := wrong_arguments(name for name, given in value.items() if given is not None)) is not None:
        raise DataError(reason)
    return dict(remove_none_values(value))


def _has_structs(feature: Any) -> bool:
    """Return whether Arrow stores a column's objects as structs, in which keys of other rows are filled in."""
    element = getattr(feature, "feature", feature[0] if isinstance(feature, list) else feature)
    return isinstance(element, Mapping)
