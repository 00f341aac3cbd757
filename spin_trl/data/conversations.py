"""What is kept of a row's prompt beside its text, so that it can be written down again as messages.

Most prompts are one message of a user, or text: for them a word says it all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

COLUMN = "conversation"
"""Of prepared rows. Rows that were prepared by an earlier version don't have it."""

TEXT_PROMPT, USER, TEMPLATED = "text", "user", "templated"
"""The prompt is text; it is one message of a user, the row's `prompt`; or only the template's text says all of it. Else the
column holds the prompt's messages as JSON."""


def kept_of(prompt: Any, response: Any, options: Mapping[str, Any]) -> str:
    """What to keep of a prompt.

    Args:
        prompt: text, or messages.
        response: text, or a message.
        options: tools and arguments of the chat template; empty ones don't count.
    """
    if isinstance(prompt, str):
        return TEXT_PROMPT
    if any(options.values()) or not all(map(_is_plain_message, [*prompt, response])):
        return TEMPLATED
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return USER
    return json.dumps([{"role": one["role"], "content": one["content"]} for one in prompt], ensure_ascii=False)


def _is_plain_message(message: Any) -> bool:
    """Whether a message is a role and a text, and nothing more."""
    return (
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        and not [name for name, value in message.items() if name not in ("role", "content") and value]
    )
