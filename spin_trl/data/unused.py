"""Report unused columns of a dataset and what they might be: silently lost data would look like a bad model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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

_OF_TEMPLATES = "arguments of a chat template are read with `as_conversations: true`, or next to `messages`"
_HINTS_ON_TEXT = {
    _SYSTEMS: "may be a system prompt, which is read with `as_conversations: true`{mapped}, or as a turn of `messages`",
    _TOOLS: f"tools can't be part of plain text: {_OF_TEMPLATES}",
    ("chat_template_kwargs",): f"plain text has no chat template: {_OF_TEMPLATES}",
    ("history",): "may be earlier turns, which are read with `as_conversations: true`",
}
_HINTS_ON_MESSAGES = {
    _SYSTEMS: "may be a system prompt, which `column_mapping: {{{column}: system}}` reads",
    _TOOLS: "may be tools, which `column_mapping: {{{column}: tools}}` reads",
    ("history",): "may be earlier turns, which are read as pairs of texts next to `prompt` or `instruction`",
}
_HINTS_ON_PROMPTS: dict[tuple[str, ...], str] = {
    _CONTEXTS: f"may belong to the prompt: `column_mapping: {{{{{{column}}: {PROMPT_INPUT}}}}}` appends it to the prompt"
}
_HINTS_ON_ALL = {
    _CONTEXTS: "may belong to the prompt: {instead}",
    _RESPONSES: "may be a response: {instead}",
    ("prompt", *_PROMPTS): "may be a prompt: {instead}",
    _CONVERSATION_NAMES: "may be a conversation: {instead}",
    ("text", "content"): "may be a whole conversation as text: {instead}",
    _GRADES: "may rate the responses, but all rows are assumed to be good",
    _WEIGHTS: "may mark rows to train on, but all rows are used; single turns are selected by their own `weight` or `train`",
    _REASONING: "may be reasoning, which is only read as part of a message",
}
"""What an unused column might be and how to have it read, by its name in lower case. The first table that applies to the
dataset (plain text or messages; with prompts; all) and contains the name is used."""


def unused_columns(dataset: Dataset) -> list[str]:
    """Return the columns of an SFT dataset that are not read, in the dataset's order."""
    read = set(dataset.column_names if is_prepared(dataset) else read_columns(dataset))
    return [column for column in dataset.column_names if column not in read]


def naming(dataset: Dataset, name: str, also_used: Collection[str] = ()) -> str | None:
    """Return a sentence that lists unused columns and what they might be; None if all columns are used.

    Args:
        dataset: SFT dataset.
        name: name of the dataset, for the sentence.
        also_used: columns that are used elsewhere, as by a scorer.
    """
    columns = [column for column in unused_columns(dataset) if column not in also_used]
    filled = filled_columns(dataset, columns)
    unused = [column for column in columns if column in filled]
    if not unused:
        return None
    hints = _hints_on_columns(unused, dataset)
    in_order = sorted(hints.items(), key=lambda named: not named[1])  # columns with an explanation first
    said = ", ".join(f"`{column}` ({hint})" if hint else f"`{column}`" for column, hint in in_order)
    return f"Unused columns of the {name} dataset: {said}."


def not_sft(dataset: Dataset) -> str:
    """Return a message on why a dataset is not an SFT dataset and what to do about it."""
    return (
        f"The dataset has the columns {dataset.column_names}. Expected `messages`, or `prompt` and `completion`, or "
        "`instruction` and `output`, or `prompt`, `chosen` and `rejected`, or `real` and `generated`. "
        f"{_way_to_sft(dataset)}"
    )


def _way_to_sft(dataset: Dataset) -> str:
    if is_unpaired(dataset):
        return (
            "`label` marks undesirable completions (unpaired preferences), so they are not all human responses: keep the "
            "desirable rows and remove the column. If it means something else, set `column_mapping: {label: topic}`."
        )
    padded = next((column for column in dataset.column_names if column != column.strip()), None)
    if padded is not None:
        return f"The column name {padded!r} has leading or trailing white space: remove it."
    prompt, response, conversation = likely_columns(dataset)
    if conversation is not None:
        first = _first_row(dataset).get(conversation)
        if isinstance(first, str) and not holds_messages(first):
            return f"`{conversation}` is text, but a conversation must be a list of messages."
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
    """Return the columns whose names suggest prompts, responses and conversations (or whose first value, for the latter)."""
    prompt, response, conversation = (
        next((column for column in dataset.column_names if column.lower() in names), None)
        for names in (("prompt", *_PROMPTS), _RESPONSES, _CONVERSATION_NAMES)
    )
    if conversation is prompt is response is None:
        conversation = next((column for column, value in _first_row(dataset).items() if are_messages(value)), None)
    return prompt, response, conversation


def _first_row(dataset: Dataset) -> dict[str, Any]:
    """Return the values of the first row, in the order of the columns; empty if there are no rows."""
    return dict(dataset[0]) if len(dataset) else {}


def _of_another_form(dataset: Dataset) -> str:
    """Return advice for rows that a column mapping can't turn into prompts and responses; empty if there is none."""
    columns = set(dataset.column_names)
    if columns & {"role", "from", "parent_id"} and columns & {"content", "value", "text"}:
        messages = '[{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]'
        return f"Each row is a single message: combine the messages of a conversation in one row, as `messages`: {messages}."
    if "text" in columns:
        return "`text` holds a whole conversation: split it into `prompt` and `completion`, the part to learn."
    for name, value in _first_row(dataset).items():
        if isinstance(value, list) and len(value) > 1 and all(isinstance(part, str) for part in value):
            like = 'as a message of `messages`, like {"role": "user", "content": ...}'
            return f"`{name}` is a list of texts. If they are turns, write each {like}."
    return ""


def _hints_on_columns(columns: Sequence[str], dataset: Dataset) -> dict[str, str]:
    """Return what each column might be and how to have it read; empty if its name gives no hint."""
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
