"""Guess which columns of a dataset are prompts and responses, before the user has specified them.

A run never guesses what to read: the guess is written into a recipe, where the user can see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from .columns import UNREADABLE, is_preference, is_sft, is_string
from .reading.json_text import are_messages, holds_messages
from .unused import likely_columns

SEEN = 200
"""Number of rows to inspect."""

_WORDS = 1.5
"""Minimum mean number of words of texts that may be prompts or responses, rather than names, labels or dates."""

_DISTINCT = 0.3
"""Minimum share of distinct texts, for the same purpose."""


@dataclass(frozen=True)
class ColumnGuess:
    """A guess of how to read a dataset.

    Attributes:
        mapping: mapping from its column names to `prompt`, `completion` and `messages`; empty if its names are fine.
        of_pairs: whether it holds preference pairs, whose preferred responses are used.
        is_by_content: whether the names were not sufficient and the texts had to be inspected.
    """

    mapping: dict[str, str] = field(default_factory=dict)
    of_pairs: bool = False
    is_by_content: bool = False


def guess_columns(dataset: Dataset) -> ColumnGuess | None:
    """Guess how to read a dataset; return None if there is no indication.

    Args:
        dataset: dataset with its original column names.
    """
    first = _first_filled(dataset)
    if is_preference(dataset):
        preferred = "chosen" if "chosen" in dataset.column_names else "real"
        has_prompt = "prompt" in dataset.column_names and not _is_conversation(first.get(preferred), least=2)
        if not has_prompt and not _is_conversation(first.get(preferred)):
            return None
        return ColumnGuess({preferred: "completion" if has_prompt else "messages"}, of_pairs=True)
    if is_sft(dataset):
        return ColumnGuess()
    prompt, response, conversation = likely_columns(dataset)
    if conversation is not None and _is_conversation(first.get(conversation)):
        return ColumnGuess({conversation: "messages"})
    by_content = (prompt is None) + (response is None)
    for candidates in (_prose(dataset), _text_columns(dataset)) if by_content else ():
        others = [column for column in candidates if column not in (prompt, response)]
        if len(others) == by_content:
            prompt = prompt or others.pop(0)
            response = response or others.pop(0)
    if prompt is None or response is None:
        return None
    if not all(
        isinstance(first.get(column, ""), str) or _is_conversation(first.get(column)) for column in (prompt, response)
    ):
        return None
    mapping = {prompt: "prompt", response: "completion"}
    return ColumnGuess({old: new for old, new in mapping.items() if old != new}, is_by_content=bool(by_content))


def _first_filled(dataset: Dataset) -> Mapping[str, Any]:
    """Return the first non-null value of each column among the inspected rows."""
    found: dict[str, Any] = {}
    for row in dataset.select(range(min(SEEN, len(dataset)))):
        found |= {name: value for name, value in row.items() if value is not None and name not in found}
    return found


def _is_conversation(value: Any, least: int = 1) -> bool:
    """Return whether a value is a list of messages, possibly as JSON."""
    is_long_enough = not isinstance(value, Sequence) or isinstance(value, str) or len(value) >= least
    return is_long_enough and (are_messages(value) or (isinstance(value, str) and holds_messages(value)))


def _text_columns(dataset: Dataset) -> list[str]:
    """Return the text columns."""
    return [name for name, kind in dataset.features.items() if name != UNREADABLE and is_string(kind)]


def _prose(dataset: Dataset) -> list[str]:
    """Return the columns whose texts have several words and differ between rows."""
    rows = dataset.select(range(min(SEEN, len(dataset))))
    found = []
    for column in _text_columns(dataset):
        texts = [text for text in rows[column] if text]
        words = sum(len(text.split()) for text in texts) / max(len(texts), 1)
        if words >= _WORDS and len(set(texts)) >= _DISTINCT * len(rows):
            found.append(column)
    return found
