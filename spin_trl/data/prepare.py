"""From whatever SFT dataset a user has to rows of prompt and real response, as tokens, each with a stable key.

Reads what TRL reads: `messages`, `prompt` + `completion`, ShareGPT's `conversations`. Preference data (`chosen` and
`rejected`, or UCLA's `real` and `generated`) is not touched here: its pairs are given, and TRL tokenises them. Everything
streams through Arrow files, so memory does not grow with the data.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from trl.trainer.utils import remove_none_values

from ..errors import DataError, TemplateError
from .arrow import remapped
from .columns import PREPARED_COLUMNS, is_sft
from .conversations import COLUMN as CONVERSATION
from .conversations import kept_of
from .keys import RowKeys, row_keys
from .notes import CUT, EARLY_END, NAMES, sentence
from .template import EarlyEndError, Message, PairTemplate
from .turns import turns_of

logger = logging.getLogger(__name__)

KEPT, TOO_LONG, BAD, BAD_TEMPLATE = "", "too long", "bad", "bad template"
"""What becomes of a row: it is trained on; its prompt leaves no room for a response; or it can't be used, and why."""

_ROW, _OUTCOME, _PROBLEM, _NOTES = "row", "outcome", "problem", "notes"
"""Columns that say what became of each row. They are counted, and removed, once all rows are prepared."""


@dataclass(frozen=True)
class Prepared:
    """Rows of token ids, and what was noticed while they were made.

    Attributes:
        rows: prepared rows.
        too_long: rows that were left out, since their prompts leave no room for a response.
        notes: what was noticed, by its name: how many responses, and the number (0-based) of the first row.
    """

    rows: Dataset
    too_long: int = 0
    notes: dict[str, tuple[int, int]] = field(default_factory=dict)


def prepare(dataset: Dataset, template: PairTemplate, **options: Any) -> Dataset:
    """The rows that [`prepare_and_count`] makes, with the same arguments."""
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
) -> Prepared:
    """Turn an SFT dataset into rows of token ids (see `PREPARED_COLUMNS`), one for each response to train on.

    Args:
        dataset: any SFT dataset that [`is_sft`] accepts. A prepared one is returned as it is.
        template: turns a prompt and its response into tokens.
        max_length: prompts of this many tokens or more are left out, as in DPOTrainer: they leave no response.
        turn: which assistant turns are trained on: `last`, `first` or `all`.
        num_proc: processes.
        keys: of [`row_keys`], if they are at hand.
        name: of the dataset, for messages.

    Raises:
        DataError: rows can't be used, with their numbers (0-based) and what is wrong with them; or no row is left.
    """
    if set(PREPARED_COLUMNS) <= set(dataset.column_names):
        return Prepared(dataset)
    if not is_sft(dataset):
        raise DataError(
            f"The dataset has the columns {dataset.column_names}. Expected `messages`, or `prompt` and `completion`, or "
            "`prompt`, `chosen` and `rejected`, or `real` and `generated`. Other names need a column mapping, like "
            "{question: prompt, answer: completion}."
        )
    keys = keys or row_keys(dataset)
    # Named by what decides the result, not by a hash of this code's closures, which hold a tokenizer.
    identity = (keys.digest, template.digest(), max_length, turn, 4)

    def encode(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        columns = (*PREPARED_COLUMNS, CONVERSATION, _ROW, _OUTCOME, _PROBLEM, _NOTES)
        prepared: dict[str, list[Any]] = {column: [] for column in columns}
        for values, index in zip(zip(*batch.values(), strict=True), indices, strict=True):
            row = dict(zip(batch, values, strict=True))
            for encoded in _encoded(row, keys.keys[index], template, turn, max_length):
                for column, value in (encoded | {_ROW: index}).items():
                    prepared[column].append(value)
        return prepared

    rows = remapped(dataset).map(
        encode,
        batched=True,
        batch_size=500,
        with_indices=True,
        num_proc=num_proc,
        remove_columns=dataset.column_names,
        new_fingerprint=hashlib.sha256(repr(identity).encode()).hexdigest()[:16],
        desc="Preparing prompts and real responses",
    )
    return _counted(rows, name, max_length)


def _encoded(
    row: dict[str, Any], key: str, template: PairTemplate, turn: str, max_length: int | None
) -> Iterator[dict[str, Any]]:
    """A row's responses, each with what becomes of it; one that can't be used is a row without tokens, and the reason."""
    nothing: dict[str, Any] = dict.fromkeys((*PREPARED_COLUMNS, CONVERSATION), "") | {"prompt_ids": [], "real_ids": []}
    try:
        for encoded in list(_encode_row(row, key, template, turn)):
            is_too_long = max_length is not None and len(encoded["prompt_ids"]) >= max_length
            if max_length is not None and len(encoded["prompt_ids"]) + len(encoded["real_ids"]) > max_length:
                encoded[_NOTES].append(CUT)
            said = {_OUTCOME: TOO_LONG if is_too_long else KEPT, _PROBLEM: ""}
            yield (nothing | {_NOTES: []} if is_too_long else encoded) | said
    except DataError as error:
        outcome = BAD_TEMPLATE if isinstance(error, TemplateError) else BAD
        found = [EARLY_END] if isinstance(error, EarlyEndError) else []
        yield nothing | {_OUTCOME: outcome, _PROBLEM: str(error), _NOTES: found}


def _counted(rows: Dataset, name: str, max_length: int | None) -> Prepared:
    """What is trained on of all rows, with what became of the others; said, or refused."""
    outcomes = rows[_OUTCOME][:]
    bad = [index for index, outcome in enumerate(outcomes) if outcome in (BAD, BAD_TEMPLATE)]
    if bad:
        error = TemplateError if outcomes[bad[0]] == BAD_TEMPLATE else DataError
        raise error(f"Row {rows[bad[0]][_ROW]} of the dataset: {rows[bad[0]][_PROBLEM]}")
    notes: dict[str, tuple[int, int]] = {}
    for number, found in zip(rows[_ROW], rows[_NOTES], strict=True):
        for note in found:
            count, first = notes.get(note, (0, number))
            notes[note] = (count + 1, first)
    kept = [index for index, outcome in enumerate(outcomes) if outcome == KEPT]
    if not kept:
        raise DataError(
            f"Every prompt of the {name} dataset has {max_length} tokens (`max_length`) or more: none is left."
        )
    too_long = len({number for number, outcome in zip(rows[_ROW], outcomes, strict=True) if outcome == TOO_LONG})
    if too_long:
        logger.warning(
            "%d of %d rows of the %s dataset are left out: their prompts have %s tokens (`max_length`) or more.",
            too_long,
            rows[-1][_ROW] + 1,
            name,
            max_length,
        )
        rows = rows.select(kept)
    for note, (count, first) in notes.items():
        if note in NAMES:
            logger.warning(sentence(note, count, first, name, max_length))
    return Prepared(rows.remove_columns([_ROW, _OUTCOME, _PROBLEM, _NOTES]), too_long, notes)


def _encode_row(row: dict[str, Any], key: str, template: PairTemplate, turn: str) -> Iterator[dict[str, Any]]:
    options = {
        "tools": row.get("tools"),
        "chat_template_kwargs": remove_none_values(row.get("chat_template_kwargs") or {}),
    }
    conversation = ""
    for number, (prompt, response) in enumerate(turns_of(row, turn)):
        # All turns of a conversation have the hash of its first prompt, so that they are held out together or not at all.
        conversation = conversation or _hash(prompt)
        encoded = template.encode(prompt, response, **options)
        if not encoded.prompt_ids:
            raise DataError("the prompt is empty, so there is nothing that the opponent could continue")
        shown = prompt if isinstance(prompt, str) else prompt[-1].get("content") or ""
        real = response if isinstance(response, str) else response.get("content") or ""
        yield {
            "key": key if turn != "all" else f"{key}.{number}",
            "prompt_hash": conversation,
            "prompt_ids": encoded.prompt_ids,
            "real_ids": encoded.real_ids,
            "prompt": shown if isinstance(shown, str) else json.dumps(shown),
            "real": real if isinstance(real, str) else json.dumps(real),
            CONVERSATION: kept_of(prompt, response, options),
            _NOTES: sorted(encoded.notes),
        }


def _hash(prompt: str | list[Message]) -> str:
    return hashlib.sha256(json.dumps(prompt, sort_keys=True, default=str).encode()).hexdigest()[:20]
