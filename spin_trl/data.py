"""From whatever SFT dataset a user has to rows of prompt and real response, as tokens, each with a stable key.

Reads what TRL reads: `messages`, `prompt` + `completion`, ShareGPT's `conversations`. Preference data (`chosen` and
`rejected`, or UCLA's `real` and `generated`) is not touched here: its pairs are given, and TRL tokenises them. Everything
streams through Arrow files, so memory does not grow with the data.
"""

from __future__ import annotations

import copy
import hashlib
import heapq
import json
import logging
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, IterableDataset
from trl.data_utils import maybe_convert_to_chatml
from trl.trainer.utils import remove_none_values

from .errors import DataError
from .template import Message, PairTemplate

logger = logging.getLogger(__name__)

PREPARED_COLUMNS = ("key", "prompt_hash", "prompt_ids", "real_ids", "prompt", "real")
"""Columns of a prepared dataset: identity, hash of the prompt, token ids, and the texts that scorers and samples show."""

ROWS_PER_SHARD = 10_000
"""Rows of a dataset that are read through one mapping of its file when a part of them is saved."""

_ROLES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names for roles, and everyone else's."""

_SFT_COLUMNS = ("messages", "conversations", "prompt", "completion", "tools", "chat_template_kwargs")


def is_preference(dataset: Dataset | IterableDataset) -> bool:
    """Whether the rows are pairs already: `chosen` and `rejected`, or `real` and `generated`."""
    columns = set(_columns(dataset))
    return {"chosen", "rejected"} <= columns or {"real", "generated"} <= columns


def is_sft(dataset: Dataset | IterableDataset) -> bool:
    """Whether the rows are prompts with a human response, or prepared from such rows."""
    columns = set(_columns(dataset))
    known = {"messages"}, {"conversations"}, {"prompt", "completion"}, set(PREPARED_COLUMNS)
    return not is_preference(dataset) and not _is_unpaired(dataset) and any(names <= columns for names in known)


def _is_unpaired(dataset: Dataset | IterableDataset) -> bool:
    """TRL's unpaired preferences: a boolean `label` says which completions are undesirable, so no human responses."""
    label = (dataset.features or {}).get("label")
    return "completion" in _columns(dataset) and getattr(label, "dtype", None) == "bool"


def as_preference(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """UCLA's columns `real` and `generated` under DPO's names; other datasets as they are."""
    columns = _columns(dataset)
    if {"real", "generated"} <= set(columns) and not {"chosen", "rejected"} & set(columns):
        return dataset.rename_columns({"real": "chosen", "generated": "rejected"})
    return dataset


def _columns(dataset: Dataset | IterableDataset) -> list[str]:
    return list(dataset.column_names or next(iter(dataset)))


@dataclass(frozen=True)
class RowKeys:
    """Keys of a dataset's rows, in order, and a digest of them all: equal if and only if the data is."""

    keys: list[str]
    digest: str


def row_keys(dataset: Dataset) -> RowKeys:
    """A key for every row, from the row's content alone, so that it outlives shuffling and re-loading.

    Rows of equal content are numbered, in order, so that no two keys are equal.
    """
    columns = [column for column in _SFT_COLUMNS if column in dataset.column_names]
    seen: dict[str, int] = {}
    keys: list[str] = []
    digest = hashlib.sha256()
    for row in _rows(dataset.select_columns(columns)):
        key = hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).hexdigest()[:20]
        count = seen[key] = seen.get(key, 0) + 1
        keys.append(key if count == 1 else f"{key}-{count}")
        digest.update(keys[-1].encode())
    return RowKeys(keys, digest.hexdigest()[:16])


def digest(rows: Dataset) -> str:
    """Hash of the keys of prepared rows, in order: equal for the same rows of the same data."""
    hasher = hashlib.sha256()
    for batch in rows.select_columns("key").iter(batch_size=1000):
        hasher.update("\n".join(batch["key"]).encode())
    return hasher.hexdigest()[:16]


def hash_of(value: Any) -> str:
    """Hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for batch in _remapped(dataset).iter(batch_size=1000):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


def prepare(
    dataset: Dataset,
    template: PairTemplate,
    *,
    max_length: int | None = None,
    turn: str = "last",
    num_proc: int | None = None,
    keys: RowKeys | None = None,
    name: str = "train",
) -> Dataset:
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
        DataError: a row can't be used, with its number (0-based) and what is wrong with it; or no row is left.
    """
    if set(PREPARED_COLUMNS) <= set(dataset.column_names):
        return dataset
    if not is_sft(dataset):
        raise DataError(
            f"The dataset has the columns {dataset.column_names}. Expected `messages`, or `prompt` and `completion`, or "
            "`prompt`, `chosen` and `rejected`, or `real` and `generated`. Other names need a column mapping, like "
            "{question: prompt, answer: completion}."
        )
    keys = keys or row_keys(dataset)
    # Named by what decides the result, not by a hash of this code's closures, which hold a tokenizer.
    identity = (keys.digest, template.digest(), max_length, turn, 1)

    def encode(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        prepared: dict[str, list[Any]] = {column: [] for column in PREPARED_COLUMNS}
        for values, index in zip(zip(*batch.values(), strict=True), indices, strict=True):
            row = dict(zip(batch, values, strict=True))
            try:
                for encoded in _encode_row(row, keys.keys[index], template, turn):
                    if max_length is None or len(encoded["prompt_ids"]) < max_length:
                        for column, value in encoded.items():
                            prepared[column].append(value)
            except DataError as error:
                raise type(error)(f"Row {index} of the dataset: {error}") from error
        return prepared

    rows = _remapped(dataset).map(
        encode,
        batched=True,
        batch_size=500,
        with_indices=True,
        num_proc=num_proc,
        remove_columns=dataset.column_names,
        new_fingerprint=hashlib.sha256(repr(identity).encode()).hexdigest()[:16],
        desc="Preparing prompts and real responses",
    )
    if len(rows) == 0:
        raise DataError(
            f"Every prompt of the {name} dataset has {max_length} tokens (`max_length`) or more: none is left."
        )
    if len(rows) < len(dataset) and turn != "all":
        logger.warning(
            "%d of %d rows of the %s dataset are left out: their prompts have %s tokens (`max_length`) or more.",
            len(dataset) - len(rows),
            len(dataset),
            name,
            max_length,
        )
    return rows


def _encode_row(row: dict[str, Any], key: str, template: PairTemplate, turn: str) -> Iterator[dict[str, Any]]:
    options = {
        "tools": row.get("tools"),
        "chat_template_kwargs": remove_none_values(row.get("chat_template_kwargs") or {}),
    }
    conversation = ""
    for number, (prompt, response) in enumerate(_turns(row, turn)):
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
        }


def _hash(prompt: str | list[Message]) -> str:
    return hashlib.sha256(json.dumps(prompt, sort_keys=True, default=str).encode()).hexdigest()[:20]


def _turns(row: dict[str, Any], turn: str) -> Iterator[tuple[str | list[Message], str | Message]]:
    """Prompt and response of every turn of a row that is trained on."""
    row = maybe_convert_to_chatml(row)
    if "completion" in row and (row["completion"] is not None or row.get("messages") is None):
        prompt, completion = (_messages(row[name], name) for name in ("prompt", "completion"))
        if not completion or (isinstance(completion, str) and not completion.strip()):
            raise DataError("the completion is empty")
        if isinstance(prompt, str) != isinstance(completion, str):
            raise DataError("the prompt and the completion must both be text or both be messages")
        if isinstance(completion, str):
            yield prompt, completion
            return
        messages, first = [*prompt, *completion], len(prompt)
    else:
        messages, first = _messages(row.get("messages"), "messages"), 0
        if isinstance(messages, str):
            raise DataError(f"`messages` is text ({messages[:60]!r}), not a list of messages")
    # An assistant's turn that nothing precedes answers nothing.
    positions = [i for i, message in enumerate(messages) if i >= max(first, 1) and message.get("role") == "assistant"]
    if not positions:
        roles = [message.get("role") for message in messages]
        raise DataError(f"no assistant turn to train on; its roles are {roles}")
    for position in {"last": positions[-1:], "first": positions[:1], "all": positions}[turn]:
        message = messages[position]
        content = message.get("content") or ""
        if not (content.strip() if isinstance(content, str) else content) and not message.get("tool_calls"):
            raise DataError(f"the assistant's turn (message {position}) is empty")
        yield messages[:position], message


def _messages(value: Any, column: str) -> Any:
    """Text as it is; messages with OpenAI's roles, and without the empty fields that Arrow fills in."""
    if isinstance(value, str):
        return value
    if not isinstance(value or [], list) or not all(isinstance(message, dict) for message in value or []):
        raise DataError(f"`{column}` is neither text nor a list of messages: {str(value)[:60]!r}")
    messages = remove_none_values(value or [])
    return [{**message, "role": _ROLES.get(role := message.get("role"), role)} for message in messages]


def split_held_out(rows: Dataset, fraction: float, most: int) -> tuple[Dataset, Dataset]:
    """Split prepared rows into those to train on and held-out ones.

    The prompts with the smallest hashes are held out, so the choice depends on nothing but the prompts, and all rows of
    one prompt land on the same side.

    Args:
        rows: prepared rows.
        fraction: share of the distinct prompts to hold out; at least one, if there are two and the share is not 0.
        most: upper bound on their number.
    """
    prompts = set(rows["prompt_hash"])
    count = min(max(round(fraction * len(prompts)), 1), most, len(prompts) - 1) if fraction else 0
    held_out = set(heapq.nsmallest(count, prompts))
    sides: tuple[list[int], list[int]] = ([], [])
    for index, prompt in enumerate(rows["prompt_hash"]):
        sides[prompt in held_out].append(index)
    return rows.select(sides[0]), rows.select(sides[1])


def save(rows: Dataset, folder: str | os.PathLike[str]) -> None:
    """Save rows as `Dataset.save_to_disk` does, in memory that does not grow with them.

    They go into shards, and each is read through a mapping of its own.
    """
    by_shard = copy.copy(rows)
    by_shard.shard = lambda **which: _remapped(rows.shard(**which))
    # As many as the rows from which these may have been selected: a few of them lie all over the file, too.
    by_shard.save_to_disk(folder, num_shards=max(min(len(rows.data) // ROWS_PER_SHARD, len(rows)), 1))


def _remapped(dataset: Dataset) -> Dataset:
    """The same dataset, with its files mapped into memory anew.

    Whatever was read from a mapped file counts as the process's memory until the file is unmapped. So what reads all rows
    once reads them through a mapping that goes when it is done.
    """
    if not dataset.cache_files or dataset.format["type"] == "custom":  # in memory, or with a function of the user's
        return dataset
    return pickle.loads(pickle.dumps(dataset))
