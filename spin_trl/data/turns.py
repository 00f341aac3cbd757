"""The responses of a row to train on, each with its prompt, and the information that is kept to reconstruct the prompt.

Most prompts are a single user message, or text, for which one word is enough to reconstruct the messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trl.trainer.utils import remove_none_values

from ..errors import DataError
from .columns import PROMPT_INPUT
from .messages import as_hashed, as_messages, as_text, flag_of, parsed, unexpected, without_empty_system, without_flag
from .notes import MARKED, UNANSWERED
from .nulls import Keys
from .reading.json_text import holds_messages, value_in
from .template.markers import Message, text_of

Conversation = tuple[list[Message], list[Message], int]
"""A row's messages, the same messages in the form for hashing, and the number of the first that may be trained on."""

CONVERSATION = "conversation"
"""Column of prepared rows. Rows prepared by an earlier version don't have it."""

TEXT_PROMPT, USER, TEMPLATED = "text", "user", "templated"
"""Values of that column: the prompt is text; it is a single user message, the row's `prompt`; or only the text rendered by
the template represents it completely. Otherwise the column holds the prompt's messages as JSON."""


@dataclass(frozen=True)
class Turn:
    """A response and the prompt that it answers.

    Attributes:
        prompt: text, or the messages before the response.
        response: text, or the assistant's message.
        hashed: form of the prompt that is hashed. Messages are read more exactly since version 0.1.0, but the hash stays the
            same, since it determines whether the prompt is held out.
        notes: names of the notes on the response ([`notes`]).
    """

    prompt: str | list[Message]
    response: str | Message
    hashed: Any
    notes: tuple[str, ...] = ()


def turns_of(row: Mapping[str, Any], turn: str, given: Keys) -> Iterator[Turn]:
    """Yield the prompt and response of every turn of a row to train on.

    Args:
        row: row with the columns that are read.
        turn: assistant turns to use: `last`, `first` or `all`, among those that are not excluded by `weight` or `train`.
        given: result of [`given_arguments`], which matters if Arrow stores arguments as structs.

    Raises:
        DataError: if the row can't be used; the message gives the reason.
    """
    conversation = _conversation(row, given)
    if isinstance(conversation, Turn):
        yield conversation
        return
    messages, hashed, first = conversation
    # An assistant turn without a preceding message is not an answer.
    positions = [i for i, message in enumerate(messages) if i >= max(first, 1) and message["role"] == "assistant"]
    if not positions:
        raise DataError(f"no assistant turn to train on; its roles are {[message['role'] for message in messages]}")
    chosen = [i for i in positions if flag_of(messages[i]) is not False]
    if not chosen:
        raise DataError("no assistant turn to train on: all are excluded by their `weight` or `train`")
    picked = {"last": chosen[-1:], "first": chosen[:1], "all": chosen}[turn]
    notes: tuple[str, ...] = (MARKED,) if any(flag_of(messages[i]) and i not in picked for i in chosen) else ()
    if turn != "first" and positions[-1] == picked[-1] < len(messages) - 1:
        notes = (*notes, UNANSWERED)
    messages = [without_flag(message) for message in messages]
    for i, message in enumerate(messages[: picked[-1]]):
        if message["role"] == "assistant" and "content" not in message and not message.get("tool_calls"):
            raise DataError(f"message {i} (assistant) has no content")
    for position in picked:
        message = messages[position]
        if not text_of(message.get("content")).strip() and not message.get("tool_calls"):
            raise DataError(f"the assistant's turn (message {position}) is empty")
        yield Turn(messages[:position], message, hashed[:position], notes if position == picked[0] else ())


def tools_of(row: Mapping[str, Any], *, is_struct: bool) -> list[Any] | None:
    """Return a row's tools as a list; None if it has none.

    Args:
        row: row, which may have `tools` as a list or as JSON.
        is_struct: whether Arrow stores them as structs and thus has filled in nulls.

    Raises:
        DataError: if the tools are anything else.
    """
    tools = value_in(row.get("tools"), "`tools` is")
    if isinstance(tools, list):
        tools = [value_in(tool, "`tools` is") for tool in tools]
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise unexpected("`tools` is", tools, "a list of functions, possibly as JSON")
    return remove_none_values(tools) if is_struct else tools


def kept_of(prompt: Any, response: Any, options: Mapping[str, Any]) -> str:
    """Return what to store in the column [`CONVERSATION`].

    Args:
        prompt: text, or messages.
        response: text, or a message.
        options: tools and arguments of the chat template; empty ones are ignored.
    """
    if isinstance(prompt, str):
        return TEXT_PROMPT
    if any(options.values()) or not all(map(_is_plain_message, [*prompt, response])):
        return TEMPLATED
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return USER
    return json.dumps([{"role": one["role"], "content": one["content"]} for one in prompt], ensure_ascii=False)


def _is_plain_message(message: Message) -> bool:
    """Return whether a message only consists of a role and a text."""
    others = [name for name, value in message.items() if value and name not in ("role", "content")]
    return isinstance(message.get("role"), str) and isinstance(message.get("content"), str) and not others


def _conversation(row: Mapping[str, Any], given: Keys) -> Turn | Conversation:
    if row.get("completion") is not None or ("completion" in row and _messages_of(row) is None):
        return _of_prompt(row, given)
    if "instruction" in row and "output" in row:
        return _of_alpaca(row, given)
    found = _messages_of(row)
    if found is None:
        column = "messages" if "messages" in row else "conversations"
        raise DataError(f"`{column}` is null; expected a list of messages")
    column, value = found
    value = without_empty_system(parsed(value, column))
    return _with_system(row, as_messages(value, column, given), as_hashed(value), 0)


def _messages_of(row: Mapping[str, Any]) -> tuple[str, Any] | None:
    found = [(name, row[name]) for name in ("conversations", "messages") if row.get(name) is not None]
    if len(found) > 1 and found[0][1] != found[1][1]:
        raise DataError("it has both `conversations` and `messages`, which differ; remove one of them")
    return found[0] if found else None


def _of_prompt(row: Mapping[str, Any], given: Keys) -> Turn | Conversation:
    prompt, completion = row["prompt"], row["completion"]
    for name, value in (("prompt", prompt), ("completion", completion)):
        if value is not None and not isinstance(value, str | list):
            raise unexpected(f"`{name}` is", value, "text or a list of messages")
        if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            raise DataError(f"`{name}` is a list of texts; expected a single text. Write one row for each text to use")
    if not completion or (isinstance(completion, str) and not completion.strip()):
        raise DataError("the completion is empty")
    if prompt is None:
        raise DataError("the prompt is null")
    prompt, completion = without_empty_system(prompt), without_empty_system(completion)
    if isinstance(prompt, str) != isinstance(completion, str):
        raise DataError("the prompt and the completion must both be text or both be messages")
    more = as_text(row.get(PROMPT_INPUT), PROMPT_INPUT)
    if isinstance(completion, str):
        if holds_messages(prompt) and holds_messages(completion):
            raise DataError(f"`prompt` and `completion` hold messages as text ({prompt[:60]!r}): use `json.loads`")
        _refuse_beside_text(row)
        text = _joined(prompt, more)
        return Turn(text, completion, text)
    start, end = as_messages(prompt, "prompt", given), as_messages(completion, "completion", given)
    hashed = as_hashed(prompt)
    if more.strip():
        if not start or start[-1]["role"] != "user" or not isinstance(start[-1].get("content"), str):
            raise DataError(f"`{PROMPT_INPUT}` must follow a user's text, but the prompt does not end with one")
        text = _joined(start[-1]["content"], more)
        start, hashed = [*start[:-1], {**start[-1], "content": text}], [*hashed[:-1], {**hashed[-1], "content": text}]
    start, hashed = [*(earlier := _history(row, given)), *start], [*earlier, *hashed]
    return _with_system(row, [*start, *end], [*hashed, *as_hashed(completion)], len(start))


def _of_alpaca(row: Mapping[str, Any], given: Keys) -> Conversation:
    instruction, more, output = (as_text(row.get(name), name) for name in ("instruction", "input", "output"))
    prompt = _joined(instruction, more)
    if not prompt.strip():
        raise DataError("the instruction is empty")
    if not output.strip():
        raise DataError("the output is empty")
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": output}]
    messages = [*_history(row, given), *messages]
    return _with_system(row, messages, messages, len(messages) - 1)


def _with_system(row: Mapping[str, Any], messages: list[Message], hashed: list[Message], first: int) -> Conversation:
    """Prepend the system prompt from its own column to a conversation."""
    system = as_text(row.get("system"), "system")
    if not system.strip():
        return messages, hashed, first
    said = [text_of(message.get("content")) for message in messages if message["role"] in ("system", "developer")]
    if any(text.strip() != system.strip() for text in said):
        raise DataError(
            f"its system turn ({said[0][:60]!r}) and its column `system` ({system[:60]!r}) differ; keep one"
        )
    if said:
        return messages, hashed, first
    turn = {"role": "system", "content": system}
    return [turn, *messages], [turn, *hashed], first + 1


def _history(row: Mapping[str, Any], given: Keys) -> list[Message]:
    """Return earlier turns from `history`, given as messages or as pairs of a user's and an assistant's text."""
    history = value_in(row.get("history"), "`history` is")
    if not history:
        return []
    if isinstance(history, list) and all(isinstance(turn, Mapping) for turn in history):
        return [without_flag(message) for message in as_messages(history, "history", given)]
    messages: list[Message] = []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise unexpected("`history` has", pair, "pairs like [user's text, assistant's text]")
        messages += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
    return messages


def _refuse_beside_text(row: Mapping[str, Any]) -> None:
    """Raise if a row of plain text has values that would be lost."""
    for name in ("system", "history", "tools", "chat_template_kwargs"):
        value = row.get(name)
        value = remove_none_values(value) if isinstance(value, Mapping) else value
        if value and str(value).strip() not in ("", "[]", "{}"):
            raise DataError(f"`{name}` can't be part of plain text. Set `as_conversations: true`, or give messages")


def _joined(prompt: str, more: str) -> str:
    """Join a prompt and the text that follows it with a blank line, as in Alpaca's format."""
    return "\n\n".join(text for text in (prompt, more) if text.strip()) if more.strip() else prompt
