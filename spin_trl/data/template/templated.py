"""Detect text that has been templated already: a chat template would be applied to markers written by a template."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ...errors import DataError, TemplateError
from .markers import Message, text_of
from .proof import size_alike

KNOWN = (
    *("<|im_start|>user", "<|start_header_id|>user", "<start_of_turn>user", "<|turn>user", "<|user|>", "<｜User｜>"),
    *("[INST]", "### Instruction:", "### Human:", "### User:", "\n\nHuman:"),
)
"""Markers that common templates write before a user's text."""

_MARKER_TOKEN = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
_PLAYERS = ("user", "assistant")
_TEXTS = tuple(f"Qz{number}turnzQ" for number in range(4))


@dataclass(frozen=True)
class Opening:
    """The text that a chat template writes before a user's text.

    Attributes:
        text: the text, without the end of the previous turn.
        token: token with which it begins.
    """

    text: str
    token: str


def opening_of(apply: Callable[[list[Message]], str], ends: Sequence[str]) -> Opening | None:
    """Return the text that a template writes before every user's text, if it contains a token that is not ordinary text.

    Args:
        apply: function that renders messages.
        ends: tokens that begin a text or end a turn.
    """
    found = next(rendered_turns(apply, _TEXTS), None)
    if found is None:
        return None
    rendered = found[1]
    first, second = rendered.partition(_TEXTS[0])[0], rendered.partition(_TEXTS[1])[2].partition(_TEXTS[2])[0]
    common = first[len(first) - size_alike(first[::-1], second[::-1]) :]  # their common suffix
    token = _MARKER_TOKEN.search(common)
    closing = _MARKER_TOKEN.search(rendered.partition(_TEXTS[2])[2])  # end of the user's turn
    ends = [*ends, closing[0]] if closing is not None else ends
    while token is not None and token[0] in ends:
        token = _MARKER_TOKEN.search(common, token.end())
    return None if token is None else Opening(common[token.start() :].strip(), token[0])


def rendered_turns(apply: Callable[[list[Message]], str], texts: Sequence[str]) -> Iterator[tuple[list[Message], str]]:
    """Yield alternating user and assistant turns with the rendered text, if the template writes all of their texts.

    Args:
        apply: function that renders messages.
        texts: texts of the turns. They are first given as text, then as a list of parts, which vision templates expect.
    """
    as_parts = [[{"type": "text", "text": text}] for text in texts]
    for contents in (texts, as_parts):
        turns = [
            {"role": role, "content": one} for role, one in zip(itertools.cycle(_PLAYERS), contents, strict=False)
        ]
        with contextlib.suppress(TemplateError):
            rendered = apply(turns)
            if all(text in rendered for text in texts):
                yield turns, rendered


def is_templated(prompt: Sequence[Message], opening: Opening | None, bos: str | None, first: int = 0) -> bool:
    """Return whether a prompt's texts contain markers that a template writes before a user's text.

    Args:
        prompt: messages of the prompt.
        opening: opening of the template that will be applied.
        bos: the tokenizer's BOS token.
        first: number of the first message, for errors.

    Raises:
        DataError: if a text begins like that template's output, so that it has certainly been templated already.
    """
    found = False
    for number, message in enumerate(prompt, first):
        text = text_of(message.get("content")) if message.get("role") in ("user", "system") else ""
        start = text.lstrip().removeprefix(bos or "").lstrip()
        if opening is not None and opening.text in text and start.startswith(opening.token):
            raise DataError(
                f"message {number} (role {message['role']!r}) begins with {start[:40]!r}, which the chat template writes "
                "itself: the text has been templated already, and would be templated twice. Leave `as_conversations` out, "
                "so that no template is applied to text, or give the texts without the template's markers"
            )
        found = found or any(known in text for known in (*KNOWN, *([opening.text] if opening else [])))
    return found
