"""Names the columns of a dataset that are not used, with what they might be: a silent loss looks like a bad model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from .columns import PROMPT_INPUT, filled_columns, is_prepared, is_text, is_unpaired, read_columns
from .reading.json_text import are_messages, holds_messages

_PROMPTS = ("instruction", "question", "query", "problem", "input", "user", "request")
_SEVERAL = ("answers", "outputs", "responses")
_SINGLE = ("output", "answer", "response", "completion", "target", "solution", "assistant", "chosen", "reply")
_RESPONSES = (*_SINGLE, *_SEVERAL)
_CONTEXTS = ("input", "context", "passage", "document", "documents", "inputs")
_SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction", "sys_prompt")
_TOOLS = ("tools", "functions", "function", "tool_definitions")
_CONVERSATION_NAMES = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns")


_GRADES = ("label", "rejected", "score", "rating", "reward", "preference")
_WEIGHTS = ("weight", "train", "loss_weight")
_REASONING = ("thinking", "reasoning", "reasoning_content", "rationale", "thought")

_OF_TEMPLATES = "what a chat template takes is read with `as_conversations: true`, or beside `messages`"
_HINTS_ON_TEXT = {
    _SYSTEMS: "may be a system prompt: it is read with `as_conversations: true`{mapped}, or as a turn of `messages`",
    _TOOLS: f"tools have no place in plain text: {_OF_TEMPLATES}",
    ("chat_template_kwargs",): f"plain text has no chat template: {_OF_TEMPLATES}",
    ("history",): "may be earlier turns: they are read with `as_conversations: true`",
}
_HINTS_ON_MESSAGES = {
    _SYSTEMS: "may be a system prompt: `column_mapping: {{{column}: system}}` reads it",
    _TOOLS: "may be tools: `column_mapping: {{{column}: tools}}` reads them",
    ("history",): "may be earlier turns: they are read as pairs of texts, beside `prompt` or `instruction`",
}
_HINTS_ON_PROMPTS: dict[tuple[str, ...], str] = {
    _CONTEXTS: f"may belong to the prompt: `column_mapping: {{{{{{column}}: {PROMPT_INPUT}}}}}` puts it behind the prompt"
}
_HINTS_ON_ALL = {
    _CONTEXTS: "may belong to the prompt: {instead}",
    _RESPONSES: "may be a response: {instead}",
    ("prompt", *_PROMPTS): "may be a prompt: {instead}",
    _CONVERSATION_NAMES: "may be a conversation: {instead}",
    ("text", "content"): "may be a whole conversation as text: {instead}",
    _GRADES: "may say how good a response is: all rows are taken as good",
    _WEIGHTS: "may say whether a row is trained on: all rows are; turns are chosen by a `weight` or `train` of theirs",
    _REASONING: "may be reasoning: it is read as part of a message only",
}
"""What a column might be that is not used, by its name in lower case, and how it would be read. Of the tables that a dataset
has part in (of plain text, of messages; with prompts), the first that knows the name counts."""


def unused_columns(dataset: Dataset) -> list[str]:
    """Columns of an SFT dataset that are not read, in the dataset's order."""
    read = set(dataset.column_names if is_prepared(dataset) else read_columns(dataset))
    return [column for column in dataset.column_names if column not in read]


def naming(dataset: Dataset, name: str) -> str | None:
    """A sentence that names the columns that are not used, and what they might be; None if all are.

    Args:
        dataset: an SFT dataset.
        name: of the dataset, for the sentence.
    """
    columns = unused_columns(dataset)
    filled = filled_columns(dataset, columns)
    unused = [column for column in columns if column in filled]
    if not unused:
        return None
    hints = _hints_on_columns(unused, dataset)
    in_order = sorted(hints.items(), key=lambda named: not named[1])  # those that are explained first
    said = ", ".join(f"`{column}` ({hint})" if hint else f"`{column}`" for column, hint in in_order)
    return f"Columns of the {name} dataset that are not used: {said}."


def not_sft(dataset: Dataset) -> str:
    """Why a dataset is no SFT dataset, and what to do about it."""
    return (
        f"The dataset has the columns {dataset.column_names}. Expected `messages`, or `prompt` and `completion`, or "
        "`instruction` and `output`, or `prompt`, `chosen` and `rejected`, or `real` and `generated`. "
        f"{_way_to_sft(dataset)}"
    )


def _way_to_sft(dataset: Dataset) -> str:
    if is_unpaired(dataset):
        return (
            "`label` says which completions are undesirable (unpaired preferences), so they are not all human responses: "
            "keep the desirable rows, and remove the column. If it says something else: `column_mapping: {label: topic}`."
        )
    padded = next((column for column in dataset.column_names if column != column.strip()), None)
    if padded is not None:
        return f"The name {padded!r} has white space around it: take that out."
    prompt, response, conversation = likely_columns(dataset)
    if conversation is not None:
        first = _first_row(dataset).get(conversation)
        if isinstance(first, str) and not holds_messages(first):
            return f"`{conversation}` is text; a conversation is read as a list of messages only."
        return f"Other names need a column mapping, like {{{conversation}: messages}}."
    if prompt is response is None:
        usual = "Other names need a column mapping, like {question: prompt, answer: completion}."
        return _of_another_form(dataset) or usual
    mapping = {prompt: "prompt", response: "completion"}
    written = ", ".join(f"{old}: {new}" for old, new in mapping.items() if old not in (None, new))
    missing = "".join(f", and a column for `{new}`" for old, new in mapping.items() if old is None)
    way = f"Other names need a column mapping, like {{{written}}}" if written else "There is `prompt`"
    return f"{way}{missing}."


def likely_columns(dataset: Dataset) -> tuple[str | None, str | None, str | None]:
    """Columns that may hold prompts, responses and conversations, by their names; the last also by the first row's value."""
    prompt, response, conversation = (
        next((column for column in dataset.column_names if column.lower() in names), None)
        for names in (("prompt", *_PROMPTS), _RESPONSES, _CONVERSATION_NAMES)
    )
    if conversation is prompt is response is None:
        conversation = next((column for column, value in _first_row(dataset).items() if are_messages(value)), None)
    return prompt, response, conversation


def _first_row(dataset: Dataset) -> dict[str, Any]:
    """The values of the first row, in the order of the columns; none where there are no rows."""
    return dict(dataset[0]) if len(dataset) else {}


def _of_another_form(dataset: Dataset) -> str:
    """What to do about rows that no column mapping makes rows of prompts and responses; nothing where that is not known."""
    columns = set(dataset.column_names)
    if columns & {"role", "from", "parent_id"} and columns & {"content", "value", "text"}:
        messages = '[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]'
        return f"Each row is a single message: gather those of a conversation in one row, as `messages`: {messages}."
    if "text" in columns:
        return "`text` holds a whole conversation: divide it into `prompt` and `completion`, which is what is learned."
    for name, value in _first_row(dataset).items():
        if isinstance(value, list) and len(value) > 1 and all(isinstance(part, str) for part in value):
            like = 'as a message of `messages`, like {"role": "user", "content": ...}'
            return f"`{name}` is a list of texts. If they are turns, write each {like}."
    return ""


def _hints_on_columns(columns: Sequence[str], dataset: Dataset) -> dict[str, str]:
    """What columns might be, and how they would be read, by name; an empty text where the name says nothing."""
    has_prompts = {"prompt", "completion"} <= set(dataset.column_names)
    by_form = _HINTS_ON_TEXT if is_text(dataset) else _HINTS_ON_MESSAGES
    tables: list[Mapping[tuple[str, ...], str]] = [by_form, _HINTS_ON_PROMPTS if has_prompts else {}, _HINTS_ON_ALL]
    instead, hints = _instead(dataset), {}
    for column in columns:
        found = (hint for table in tables for names, hint in table.items() if column.lower() in names)
        mapped = "" if column == "system" else ", mapped to `system`"
        hints[column] = next(found, "").format(column=column, mapped=mapped, instead=instead)
    return hints


def _instead(dataset: Dataset) -> str:
    names = ("messages", "conversations", "prompt", "completion", "instruction", "output")
    read = [column for column in read_columns(dataset) if column in names]
    return " and ".join(f"`{column}`" for column in read) + (" are read" if len(read) > 1 else " is read")
