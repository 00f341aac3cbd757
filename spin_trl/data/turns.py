"""The responses of a row that are trained on, each with the prompt that it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trl.trainer.utils import remove_none_values

from ..errors import DataError
from .columns import PROMPT_INPUT
from .messages import (
    as_messages,
    as_text,
    described,
    flag_of,
    folded,
    parsed,
    text_of,
    without_empty_system,
    without_flag,
)
from .notes import MARKED, UNANSWERED
from .nulls import Keys
from .reading.json_text import holds_messages
from .template.pair_template import Message

_OLD_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Turn:
    """A response, and the prompt that it answers.

    Attributes:
        prompt: text, or the messages before the response.
        response: text, or the assistant's message.
        hashed: the prompt as its hash is taken of. Since version 0.1.0 messages are read more exactly, but a prompt's hash
            says whether it is held out, so it stays.
        notes: names of what was noticed ([`notes`]).
    """

    prompt: str | list[Message]
    response: str | Message
    hashed: Any
    notes: tuple[str, ...] = ()


def turns_of(row: Mapping[str, Any], turn: str, given: Keys | None = None) -> Iterator[Turn]:
    """Prompt and response of every turn of a row that is trained on.

    Args:
        row: of the columns that are read.
        turn: which of an assistant's turns: `last`, `first` or `all`, of those that no `weight` or `train` takes out.
        given: arguments that functions are called with ([`given_arguments`]), where Arrow keeps them as structs.

    Raises:
        DataError: the row can't be used, and why.
    """
    given = given or {}
    conversation = _conversation(row, given)
    if isinstance(conversation, Turn):
        yield conversation
        return
    messages, hashed, first = conversation
    # An assistant's turn that nothing precedes answers nothing.
    positions = [i for i, message in enumerate(messages) if i >= max(first, 1) and message["role"] == "assistant"]
    if not positions:
        raise DataError(f"no assistant turn to train on; its roles are {[message['role'] for message in messages]}")
    chosen = [i for i in positions if flag_of(messages[i]) is not False]
    if not chosen:
        raise DataError("no assistant turn to train on: all are taken out by their `weight` or `train`")
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
    """A row's tools, as a list; None if it has none.

    Args:
        row: with or without `tools`: a list, or JSON.
        is_struct: whether Arrow keeps them as structs, and so has filled in nulls.

    Raises:
        DataError: they are something else.
    """
    tools: Any = row.get("tools")
    try:
        if isinstance(tools, str):
            tools = json.loads(tools) if tools.strip() else None
        if isinstance(tools, list):
            tools = [json.loads(tool) if isinstance(tool, str) else tool for tool in tools]
    except ValueError as error:
        raise DataError(f"`tools` is not valid JSON ({error}): {str(row['tools'])[:60]!r}") from error
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError(f"`tools` is {described(tools)}; expected a list of functions, or one as JSON")
    return remove_none_values(tools) if is_struct else tools


def _conversation(row: Mapping[str, Any], given: Keys) -> Turn | tuple[list[Message], list[Message], int]:
    """A row's text, or its messages, the same as they are hashed, and the first that may be trained on."""
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
    return _put_before([], 0, as_messages(value, column, given), _as_hashed(value), row)


def _messages_of(row: Mapping[str, Any]) -> tuple[str, Any] | None:
    found = [(name, row[name]) for name in ("conversations", "messages") if row.get(name) is not None]
    if len(found) > 1 and found[0][1] != found[1][1]:
        raise DataError("it has both `conversations` and `messages`, which differ; remove one of them")
    return found[0] if found else None


def _of_prompt(row: Mapping[str, Any], given: Keys) -> Turn | tuple[list[Message], list[Message], int]:
    prompt, completion = row["prompt"], row["completion"]
    for name, value in (("prompt", prompt), ("completion", completion)):
        if value is not None and not isinstance(value, str | list):
            raise DataError(f"`{name}` is {described(value)}; expected text or a list of messages")
    if not completion or (isinstance(completion, str) and not completion.strip()):
        raise DataError("the completion is empty")
    if prompt is None:
        raise DataError("the prompt is null")
    prompt, completion = without_empty_system(prompt), without_empty_system(completion)
    _refuse_other_forms(prompt, completion)
    more = as_text(row.get(PROMPT_INPUT), PROMPT_INPUT)
    if isinstance(completion, str):
        _refuse_beside_text(row)
        text = _joined(prompt, more)
        return Turn(text, completion, text)
    start, end = as_messages(prompt, "prompt", given), as_messages(completion, "completion", given)
    hashed = _as_hashed(prompt)
    if more.strip():
        if not start or start[-1]["role"] != "user" or not isinstance(start[-1].get("content"), str):
            raise DataError(f"`{PROMPT_INPUT}` belongs behind a user's text, but that is not how the prompt ends")
        text = _joined(start[-1]["content"], more)
        start, hashed = [*start[:-1], {**start[-1], "content": text}], [*hashed[:-1], {**hashed[-1], "content": text}]
    earlier = _history(row, given)
    return _put_before(
        earlier, len(earlier) + len(start), [*start, *end], [*hashed, *_as_hashed(completion)], row, earlier
    )


def _refuse_other_forms(prompt: Any, completion: Any) -> None:
    """Raise DataError if prompt and completion are neither both text nor both lists of messages."""
    for name, value in (("prompt", prompt), ("completion", completion)):
        if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            raise DataError(f"`{name}` is a list of texts; expected one text. Write a row for each that is to be used")
    if isinstance(prompt, str) != isinstance(completion, str):
        raise DataError("the prompt and the completion must both be text or both be messages")
    if isinstance(prompt, str) and holds_messages(prompt) and holds_messages(completion):
        raise DataError(
            f"`prompt` and `completion` are texts that hold messages in JSON ({prompt[:60]!r}): read them with "
            "`json.loads`, so that they are lists of messages"
        )


def _of_alpaca(row: Mapping[str, Any], given: Keys) -> tuple[list[Message], list[Message], int]:
    instruction, more, output = (as_text(row.get(name), name) for name in ("instruction", "input", "output"))
    prompt = _joined(instruction, more)
    if not prompt.strip():
        raise DataError("the instruction is empty")
    if not output.strip():
        raise DataError("the output is empty")
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": output}]
    earlier = _history(row, given)
    return _put_before(earlier, len(earlier) + 1, messages, messages, row, earlier)


def _put_before(
    earlier: list[Message],
    first: int,
    messages: list[Message],
    hashed: list[Message],
    row: Mapping[str, Any],
    hashed_earlier: list[Message] | None = None,
) -> tuple[list[Message], list[Message], int]:
    """Messages behind earlier turns and a system prompt of their own column."""
    messages, hashed = [*earlier, *messages], [*(hashed_earlier or []), *hashed]
    system = as_text(row.get("system"), "system")
    if not system.strip():
        return messages, hashed, first
    said = [text_of(message.get("content")) for message in messages if message["role"] in ("system", "developer")]
    if any(text.strip() != system.strip() for text in said):
        raise DataError(
            f"it has a system turn ({said[0][:60]!r}) and another text in its column `system` ({system[:60]!r}); keep one"
        )
    if said:
        return messages, hashed, first
    turn = {"role": "system", "content": system}
    return [turn, *messages], [turn, *hashed], first + 1


def _history(row: Mapping[str, Any], given: Keys) -> list[Message]:
    """Earlier turns: pairs of a user's and an assistant's text."""
    history: Any = row.get("history")
    if isinstance(history, str):
        try:
            history = json.loads(history) if history.strip() else None
        except ValueError as error:
            raise DataError(f"`history` is not valid JSON ({error}): {str(history)[:60]!r}") from error
    if not history:
        return []
    if isinstance(history, list) and all(isinstance(turn, Mapping) for turn in history):
        return [without_flag(message) for message in as_messages(history, "history", given)]
    messages: list[Message] = []
    pairs: list[Any] = history if isinstance(history, list) else [history]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError(f"`history` has {described(pair)}; expected pairs like [user's text, assistant's text]")
        messages += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
    return messages


def _refuse_beside_text(row: Mapping[str, Any]) -> None:
    """What has no place in plain text must not get lost."""
    for name in ("system", "history", "tools", "chat_template_kwargs"):
        value = row.get(name)
        value = remove_none_values(value) if isinstance(value, Mapping) else value
        if value and str(value).strip() not in ("", "[]", "{}"):
            raise DataError(
                f"it has `{name}`, which has no place in plain text. Set `as_conversations: true`, or give messages"
            )


def _joined(prompt: str, more: str) -> str:
    """A prompt, a blank line, and what belongs behind it, as Alpaca's format has it."""
    return "\n\n".join(text for text in (prompt, more) if text.strip()) if more.strip() else prompt


def _as_hashed(messages: list[Any]) -> list[Message]:
    """Messages as version 0.1.0 read them."""
    found: list[Message] = []
    for message in remove_none_values(messages):
        for other, name in (("from", "role"), ("value", "content")):
            if other in message:
                message[name] = message.pop(other)
        role = folded(message.get("role"))
        found.append({**message, "role": _OLD_ROLES.get(role, role)})
    return found
