"""Guesses which columns of a user's dataset are prompts and responses, for those who have not said so yet.

What a run reads is never guessed: a guess is written into a recipe, where its user sees it.
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
"""Rows that are looked at."""

_WORDS = 1.5
"""Mean number of words from which on texts are taken for prompts or responses, and not for names, labels or dates."""

_DISTINCT = 0.3
"""Share of the rows that have a text of their own, from which on the same holds."""


@dataclass(frozen=True)
class ColumnGuess:
    """How a dataset may be read.

    Attributes:
        mapping: from its names to `prompt`, `completion` and `messages`; empty where its own names will do.
        of_pairs: whether it holds preference pairs, of which the preferred responses are taken.
        is_by_content: whether names have said nothing, and texts had to be looked at.
    """

    mapping: dict[str, str] = field(default_factory=dict)
    of_pairs: bool = False
    is_by_content: bool = False


def guess_columns(dataset: Dataset) -> ColumnGuess | None:
    """Guess how a dataset may be read; None if nothing speaks for any way.

    Args:
        dataset: with its own names of columns.
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
    """The first value of each column that is not null, of the rows that are looked at."""
    found: dict[str, Any] = {}
    for row in dataset.select(range(min(SEEN, len(dataset)))):
        found |= {name: value for name, value in row.items() if value is not None and name not in found}
    return found


def _is_conversation(value: Any, least: int = 1) -> bool:
    """Whether a value is a list of messages, or one as JSON."""
    is_long_enough = not isinstance(value, Sequence) or isinstance(value, str) or len(value) >= least
    return is_long_enough and (are_messages(value) or (isinstance(value, str) and holds_messages(value)))


def _text_columns(dataset: Dataset) -> list[str]:
    """Columns of text."""
    return [name for name, kind in dataset.features.items() if name != UNREADABLE and is_string(kind)]


def _prose(dataset: Dataset) -> list[str]:
    """Columns of texts with words that differ from row to row."""
    rows = dataset.select(range(min(SEEN, len(dataset))))
    found = []
    for column in _text_columns(dataset):
        texts = [text for text in rows[column] if text]
        words = sum(len(text.split()) for text in texts) / max(len(texts), 1)
        if words >= _WORDS and len(set(texts)) >= _DISTINCT * len(rows):
            found.append(column)
    return found
