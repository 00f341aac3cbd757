"""The responses of a row that are trained on, each with the prompt that it answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trl.data_utils import maybe_convert_to_chatml
from trl.trainer.utils import remove_none_values

from ..errors import DataError
from .template import Message

_ROLES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names for roles, and everyone else's."""


def turns_of(row: dict[str, Any], turn: str) -> Iterator[tuple[str | list[Message], str | Message]]:
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
