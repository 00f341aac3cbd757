"""Names the columns of a dataset that are not used, with what they might be: a silent loss looks like a bad model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset

from .columns import PREPARED_COLUMNS, PROMPT_INPUT, is_text, is_unpaired, read_columns
from .holdings import first_filled
from .reading.json_text import are_messages, holds_messages

_PROMPTS = ("instruction", "question", "query", "problem", "input", "user", "request")
_RESPONSES = (
    "output",
    "answer",
    "response",
    "completion",
    "target",
    "solution",
    "assistant",
    "chosen",
    "reply",
    "answers",
    "outputs",
    "responses",
)
_CONTEXTS = ("input", "context", "passage", "document", "documents", "inputs")
_SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction", "sys_prompt")
_TOOLS = ("tools", "functions", "function", "tool_definitions")
_CONVERSATION_NAMES = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns")


def unused_columns(dataset: Dataset) -> list[str]:
    """Columns of an SFT dataset that are not read, in the dataset's order."""
    if set(PREPARED_COLUMNS) <= set(dataset.column_names):
        return []
    read = read_columns(dataset)
    return [column for column in dataset.column_names if column not in read]


def naming(dataset: Dataset, name: str) -> str | None:
    """A sentence that names the columns that are not used, and what they might be; None if all are.

    Args:
        dataset: an SFT dataset.
        name: of the dataset, for the sentence.
    """
    unused = [column for column in unused_columns(dataset) if not _is_empty(dataset, column)]
    if not unused:
        return None
    hints = {column: _hint_on_column(column, dataset) for column in unused}
    plain = [f"`{column}`" for column, hint in hints.items() if not hint]
    explained = [f"`{column}` ({hint})" for column, hint in hints.items() if hint]
    return f"Columns of the {name} dataset that are not used: {', '.join([*explained, *plain])}."


def not_sft(dataset: Dataset) -> str:
    """Why a dataset is no SFT dataset, and what to do about it."""
    columns = dataset.column_names
    said = (
        f"The dataset has the columns {columns}. Expected `messages`, or `prompt` and `completion`, or `instruction` and "
        "`output`, or `prompt`, `chosen` and `rejected`, or `real` and `generated`. "
    )
    if is_unpaired(dataset):
        return said + (
            "`label` says which completions are undesirable (unpaired preferences), so they are not all human responses: "
            "keep the rows that are desirable, and remove the column. If it says something else, map it to another name: "
            "`column_mapping: {label: topic}`."
        )
    padded = [column for column in columns if column != column.strip()]
    if padded:
        return said + f"The name {padded[0]!r} has white space around it: take that out."
    prompt = next((column for column in columns if column.lower() in ("prompt", *_PROMPTS)), None)
    response = next((column for column in columns if column.lower() in _RESPONSES), None)
    conversation = next((column for column in columns if column.lower() in _CONVERSATION_NAMES), None)
    if conversation is None and prompt is None and response is None:
        conversation = next((column for column in columns if are_messages(_first_value(dataset, column))), None)
    first = None if conversation is None else _first_value(dataset, conversation)
    if isinstance(first, str) and not holds_messages(first):
        return said + f"`{conversation}` is text; a conversation is read as a list of messages only."
    if prompt is None and response is None and conversation is None:
        reason = _of_another_form(dataset)
        if reason:
            return said + reason
    mapping = {prompt: "prompt", response: "completion"}
    if conversation is not None:
        mapping = {conversation: "messages"}
    elif prompt is None and response is None:
        mapping = {"question": "prompt", "answer": "completion"}
    written = ", ".join(f"{old}: {new}" for old, new in mapping.items() if old not in (None, new))
    missing = "".join(f", and a column for `{new}`" for old, new in mapping.items() if old is None)
    return (
        said
        + (f"Other names need a column mapping, like {{{written}}}" if written else "There is `prompt`")
        + f"{missing}."
    )


def _first_value(dataset: Dataset, column: str) -> Any:
    """A column's first value."""
    return dataset[0][column] if len(dataset) else None


def _of_another_form(dataset: Dataset) -> str:
    """What to do about rows that no column mapping makes rows of prompts and responses; nothing where that is not known."""
    columns = set(dataset.column_names)
    if columns & {"role", "from", "parent_id"} and columns & {"content", "value", "text"}:
        return (
            "Each row is a single message: gather those of a conversation in one row, as "
            '`messages`: [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}].'
        )
    if "text" in columns:
        return (
            "`text` holds all of a conversation: divide it into `prompt` and `completion`, which is what is learned."
        )
    for name in dataset.column_names:
        value = _first_value(dataset, name)
        if isinstance(value, list) and len(value) > 1 and all(isinstance(part, str) for part in value):
            return (
                f"`{name}` is a list of texts. If they are turns, write each as a message of `messages`, like "
                '{"role": "user", "content": ...}.'
            )
    return ""


def _is_empty(dataset: Dataset, column: str) -> bool:
    """Whether a column is null or empty in all rows, so that nothing gets lost with it."""
    return first_filled(dataset, column) is None


def _hint_on_column(column: str, dataset: Dataset) -> str:
    """What a column might be, and how it would be read; nothing where its name says nothing."""
    name, text = column.lower(), is_text(dataset)
    if name in _SYSTEMS:
        if not text:
            return f"may be a system prompt: `column_mapping: {{{column}: system}}` reads it"
        mapped = "" if column == "system" else ", mapped to `system`"
        return f"may be a system prompt: it is read with `as_conversations: true`{mapped}, or as a turn of `messages`"
    if name in _TOOLS:
        if text:
            return (
                "tools have no place in plain text: they are read with `as_conversations: true`, or beside `messages`"
            )
        return f"may be tools: `column_mapping: {{{column}: tools}}` reads them"
    if name == "chat_template_kwargs":
        return "plain text has no chat template: it is read with `as_conversations: true`, or beside `messages`"
    if name == "history":
        if text:
            return "may be earlier turns: they are read with `as_conversations: true`"
        return "may be earlier turns: they are read as pairs of texts, beside `prompt` or `instruction`"
    has_prompt = {"prompt", "completion"} <= set(dataset.column_names)
    if name in _CONTEXTS and has_prompt:
        return f"may belong to the prompt: `column_mapping: {{{column}: {PROMPT_INPUT}}}` puts it behind the prompt"
    if name in _CONTEXTS:
        return f"may belong to the prompt: {_instead(dataset)}"
    if name in ("prompt", "completion", *_PROMPTS, *_RESPONSES):
        what = "response" if name in ("completion", *_RESPONSES) else "prompt"
        return f"may be a {what}: {_instead(dataset)}"
    if name in _CONVERSATION_NAMES:
        return f"may be a conversation: {_instead(dataset)}"
    if name in ("text", "content"):
        return f"may be a whole conversation as text: {_instead(dataset)}"
    if name in ("label", "rejected", "score", "rating", "reward", "preference"):
        return "may say how good a response is: all rows are taken as good"
    if name in ("weight", "train", "loss_weight"):
        return "may say whether a row is trained on: all rows are; turns are chosen by a `weight` or `train` of theirs"
    if name in ("thinking", "reasoning", "reasoning_content", "rationale", "thought"):
        return "may be reasoning: it is read as part of a message only"
    return ""


def _instead(dataset: Dataset) -> str:
    read: Sequence[str] = [
        column
        for column in read_columns(dataset)
        if column in ("messages", "conversations", "prompt", "completion", "instruction", "output")
    ]
    return " and ".join(f"`{column}`" for column in read) + (" are read" if len(read) > 1 else " is read")
