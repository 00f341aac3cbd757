"""Check preference pairs before a run trains on them: `chosen` and `rejected`, with or without `prompt`, text or messages.

The pairs stay as they are stored: DPOTrainer tokenises them. This module only reads them, to refuse pairs that can't be
used, to leave out those that state no preference, and to find their prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from trl import extract_prompt

from ..counts import agreeing, counted
from ..errors import DataError
from ..files import json_digest, parts_digest
from .arrow import rows_of
from .bad_rows import BadRow, BadRows, left_out, refusal_of_rows
from .columns import as_preference, is_preference, is_string, refuse_media
from .held_out import group_of
from .keys import KEY_DIGITS
from .reading.kept import apart

logger = logging.getLogger(__name__)

PAIR_COLUMNS = ("prompt", "chosen", "rejected", "tools", "chat_template_kwargs")
"""Columns that DPOTrainer reads."""

PREFERENCE = "preference"
"""What the dataset is called in messages."""


@dataclass(frozen=True)
class Pairs:
    """Preference pairs that can be trained on.

    Attributes:
        rows: the pairs, with the columns that DPOTrainer reads.
        groups: group of each pair's prompt, as for held-out prompts ([`group_of`]).
        identical: number of pairs that were left out because both responses are equal.
        skipped: number of rows that were left out because they can't be used (`bad_rows: skip`).
        remarks: both in sentences, which have been logged as warnings.
        numbers: numbers of the pairs in the data (0-based).
    """

    rows: Dataset
    groups: Sequence[str]
    identical: int = 0
    skipped: int = 0
    remarks: list[str] = field(default_factory=list)
    numbers: Sequence[int] = ()

    def without(self, groups: set[str]) -> tuple[Pairs, int]:
        """Return the pairs whose prompts are in none of some groups, and the number of those that are."""
        kept = [number for number, group in enumerate(self.groups) if group not in groups]
        dropped = len(self.groups) - len(kept)
        rows, of_rows = self.rows.select(kept), [self.groups[number] for number in kept]
        numbers = [self.numbers[number] for number in kept]
        return Pairs(rows, of_rows, self.identical, self.skipped, self.remarks, numbers), dropped


def check_pairs(dataset: Dataset) -> Dataset:
    """Return a dataset of pairs with DPO's names of columns.

    Raises:
        DataError: if it has no pairs, no rows, or images, videos or sound.
    """
    if not is_preference(dataset):
        raise DataError(
            f"DPO needs pairs: the columns `chosen` and `rejected` (or `real` and `generated`), but the columns of the "
            f"{PREFERENCE} dataset are {dataset.column_names}. If they have other names, set `column_mapping`."
        )
    if not len(dataset):
        raise DataError(f"The {PREFERENCE} dataset has no rows.")
    refuse_media(dataset)
    return as_preference(dataset)


def pairs_digest(dataset: Dataset) -> str:
    """Return a hash of the pairs, in order, which is equal if and only if they are equal."""
    read = as_preference(dataset)
    rows = rows_of(read.select_columns([name for name in PAIR_COLUMNS if name in read.column_names]))
    return parts_digest(json_digest(row, KEY_DIGITS) for row in rows)


def read_pairs(dataset: Dataset, bad_rows: BadRows | None = None) -> Pairs:
    """Check all pairs, and leave out those that can't be used or say nothing.

    Args:
        dataset: pairs in any of TRL's preference formats, as text or as messages.
        bad_rows: policy for rows that can't be used; None: refuse them.

    Raises:
        DataError: if rows can't be used (the message gives their 0-based numbers and what is wrong), or no pair is left.
    """
    dataset, policy = check_pairs(dataset), bad_rows or BadRows()
    if "prompt" in dataset.column_names and _repeats_prompt(next(rows_of(dataset.select(range(1))))):
        dataset = dataset.remove_columns(["prompt"])  # `chosen` and `rejected` begin with it
    read = dataset.select_columns([name for name in PAIR_COLUMNS if name in dataset.column_names])
    bad, kept, groups, identical, first = list[BadRow](), list[int](), list[str](), 0, ""
    for number, row in enumerate(rows_of(read)):
        problem, kind = _problem_of_pair(row), "text" if isinstance(row["chosen"], str) else "messages"
        first = first or ("" if problem else kind)
        if not problem and kind != first:
            problem = f"its responses are {kind}, but those of the rows before are {first}."
        if problem:
            bad.append((number, problem))
        elif row["chosen"] == row["rejected"]:
            identical += 1
        else:
            pair = explicit(row)
            if empty := [name for name in ("prompt", "chosen", "rejected") if not pair[name]]:
                bad.append((number, f"without the part that both responses share, its `{empty[0]}` is empty."))
                continue
            kept.append(number)
            groups.append(group_of(pair["prompt"]))
    if len(bad) > policy.limit(len(dataset)):
        raise DataError(refusal_of_rows(bad, len(dataset), PREFERENCE, policy))
    if not kept:
        raise DataError(
            f"The {PREFERENCE} dataset states no preference: `chosen` and `rejected` are equal in all "
            f"{counted(identical, 'row')}."
        )
    remarks = [left_out(bad, len(dataset), PREFERENCE)] if bad else []
    if identical:
        them = agreeing(identical, "its `chosen` and `rejected` are equal", "their `chosen` and `rejected` are equal")
        remarks.append(
            f"{counted(identical, f'{PREFERENCE} pair')} {agreeing(identical, 'is', 'are')} left out: {them}."
        )
    for remark in remarks:
        logger.warning("%s", remark)
    return Pairs(read.select(kept), groups, identical, len(bad), remarks, kept)


def explicit(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pair with its prompt apart from the responses, as DPOTrainer takes it apart."""
    if "prompt" in row:
        return {name: row[name] for name in ("prompt", "chosen", "rejected")}
    return dict(extract_prompt({name: row[name] for name in ("chosen", "rejected")}))


def pairs_as_conversations(dataset: Dataset) -> Dataset:
    """Turn prompts and responses that are text into messages, so that the chat template is applied to them."""
    pairs = as_preference(dataset) if is_preference(dataset) else dataset
    names = ("chosen", "rejected")
    if not len(pairs) or not all(name in pairs.column_names and is_string(pairs.features[name]) for name in names):
        return dataset

    def as_messages(row: dict[str, Any]) -> dict[str, Any]:
        if any(not isinstance(row[name], str) for name in names) or row["chosen"] == row["rejected"]:
            # Refused or left out when the pairs are read.
            return {
                name: [_message("user" if name == "prompt" else "assistant", row.get(name))] for name in PARTS_OF_PAIR
            }
        found = explicit(row)
        return {name: [_message("user" if name == "prompt" else "assistant", found[name])] for name in PARTS_OF_PAIR}

    return apart(pairs).map(as_messages, load_from_cache_file=False, desc="Turning text into conversations")


PARTS_OF_PAIR = ("prompt", "chosen", "rejected")
"""Columns of a pair whose prompt is apart."""


def _message(role: str, content: str | None) -> dict[str, str | None]:
    return {"role": role, "content": content.strip() if content else content}


def _repeats_prompt(row: Mapping[str, Any]) -> bool:
    """Return whether a prompt is text although the responses are conversations that begin with it, as in UltraFeedback."""
    chosen, prompt = row["chosen"], row["prompt"]
    if not isinstance(prompt, str) or not isinstance(chosen, list) or not chosen:
        return False
    return isinstance(chosen[0], Mapping) and chosen[0].get("role") != "assistant"


def _problem_of_pair(row: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a pair, or None."""
    for name in [name for name in PARTS_OF_PAIR if name in row]:
        value = row[name]
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            return f"its `{name}` is empty."
        if not isinstance(value, str) and not _are_messages(value):
            return f"its `{name}` is neither text nor messages with `role` and `content`: {value!r:.60}."
        if name != "prompt" and not isinstance(value, str) and value[-1].get("role") != "assistant":
            return f"its `{name}` ends with a message of the role {value[-1].get('role')!r}, not of the assistant."
    kinds = {isinstance(row[name], str) for name in PARTS_OF_PAIR if name in row}
    return "some of its parts are text, and others messages." if len(kinds) > 1 else None


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) and one.get("role") for one in value)
