"""Text as conversations: what a chat model is asked in."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, Features, Json

from .columns import is_string
from .reading.exact_json import ExactJson
from .reading.kept import apart

_ROLES = {"prompt": "user", "completion": "assistant"}


def as_conversations(dataset: Dataset) -> Dataset:
    """Prompts and completions that are text, as a user's and an assistant's message.

    Without this, text is text: no chat template is put around it. Messages stay as they are, row by row. So do values that
    are neither, which are refused by the row's number when it is prepared. Other columns stay, too: `system`, `history` and
    `prompt_input` become part of the conversation when the row is read.
    """
    if len(dataset) == 0 or not set(_ROLES) <= set(dataset.column_names):
        return dataset
    # A column of Arrow's text, or one in which text and messages are mixed, which is kept as JSON.
    mixed = [name for name in _ROLES if isinstance(dataset.features[name], Json)]
    text = [name for name in _ROLES if is_string(dataset.features[name])]
    if not text and not any(isinstance(value, str) for name in mixed for value in dataset[name]):
        return dataset

    def as_messages(row: dict[str, Any]) -> dict[str, Any]:
        messages = {
            name: [{"role": _ROLES[name], "content": row[name]}] if isinstance(row[name], str) else row[name]
            for name in (*text, *mixed)
        }
        # As JSON already, which `datasets` leaves as it is. What it writes itself has ten digits of a number.
        return messages | {name: ExactJson().encode_example(messages[name]) for name in mixed}

    of_text = Dataset.from_dict({name: [[{"role": "user", "content": ""}]] for name in text}).features
    features = Features({**dataset.features, **of_text})
    return apart(dataset).map(as_messages, features=features, desc="Writing text as conversations")
