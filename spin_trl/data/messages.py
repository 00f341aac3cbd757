"""Messages of every dialect, as OpenAI's: roles, content, tool calls. What can't be one is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from trl.trainer.utils import remove_none_values

from ..errors import DataError
from .nulls import Keys, without_foreign
from .reading.json_text import MESSAGE_COLUMNS, advice_on, messages_of
from .template.pair_template import Message

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "ipython",
}
"""Roles that are known, OpenAI's and ShareGPT's, and what they are called here. Llama's templates call a tool `ipython`.
Case does not matter ([`folded`])."""

_CALLS = ("function_call", "tool_call")
"""Roles of turns whose text is a tool call, as JSON."""

_FLAGS = ("weight", "train")
"""Fields of a turn that say whether it is trained on."""

_TEXT_PARTS = ("text", "input_text", "output_text")
_OTHER_PARTS = (
    *("image", "image_url", "input_image", "audio", "audio_url", "input_audio"),
    *("video", "video_url", "file", "input_file", "refusal"),
)
"""Kinds of content parts: text, and what self-play can't read."""


def as_messages(value: Any, column: str, given: Keys) -> list[Message]:
    """A list of messages with `role` and `content`, and maybe `tool_calls`.

    Fields that are null are absent, as Arrow fills them in. `weight` and `train` stay, as booleans: [`flag_of`].

    Args:
        value: of a row's column.
        column: its name, for messages.
        given: of [`given_arguments`].

    Raises:
        DataError: the value is no list of messages, or a message has an unknown role, no content, or content that is neither
            text nor parts that are text.
    """
    if not isinstance(value, list):
        raise DataError(f"`{column}` is {described(value)}; expected a list of messages")
    return [_as_message(message, f"message {i} of `{column}`", given) for i, message in enumerate(value)]


def parsed(value: Any, column: str) -> Any:
    """A column's messages, if they are a text that holds them as JSON: as Parquet files often do. Anything else as it is.

    Raises:
        DataError: the text holds something else.
    """
    if not isinstance(value, str):
        return value
    try:
        return messages_of(value)
    except (ValueError, RecursionError):
        raise DataError(f"`{column}` is {value[:60]!r}; expected {MESSAGE_COLUMNS}.{advice_on(value)}") from None


def without_empty_system(messages: Any) -> Any:
    """Messages without system turns that are null, which say nothing. Anything else as it is."""
    return [one for one in messages if not _is_empty_system(one)] if isinstance(messages, list) else messages


def _is_empty_system(message: Any) -> bool:
    if not isinstance(message, Mapping) or not {"content", "value"} & set(message):
        return False
    said = {name: value for name, value in message.items() if value is not None}
    role = said.pop("role", None) or said.pop("from", None)
    return folded(role) in ("system", "developer") and not said


def folded(role: Any) -> Any:
    """A role as it is looked up: `Human` is `human`, `function-call` is `function_call`."""
    return role.strip().lower().replace("-", "_").replace(" ", "_") if isinstance(role, str) else role


def flag_of(message: Message) -> bool | None:
    """Whether a turn is marked to be trained on (`weight`, `train`); None if it is not marked."""
    return next((message[name] for name in _FLAGS if name in message), None)


def without_flag(message: Message) -> Message:
    return {name: value for name, value in message.items() if name not in _FLAGS}


def text_of(content: Any) -> str:
    """The text of a message's content: text, parts that are text, or nothing."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content or ""


def described(value: Any) -> str:
    """A value, and what kind it is of, for messages."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    shown = repr(value[:60]) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)[:60]
    return f"{kinds.get(type(value), type(value).__name__)} ({shown})"


def as_text(value: Any, column: str) -> str:
    """Text, where nothing else will do; null is no text.

    Raises:
        DataError: the value is something else.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"`{column}` is {described(value)}; expected text")
    return value


def _as_message(message: Any, where: str, given: Keys) -> Message:
    if not isinstance(message, Mapping):
        advice = (
            ', like {"role": "user", "content": ...}; who speaks is not guessed' if isinstance(message, str) else ""
        )
        raise DataError(f"{where} is {described(message)}; expected an object with a role and content{advice}")
    found = {name: value for name, value in message.items() if value is not None}
    for other, name in (("from", "role"), ("value", "content")):  # ShareGPT's names
        if other in found:
            found.setdefault(name, found[other])
            del found[other]
    role = found.get("role")
    if not isinstance(role, str):
        raise DataError(f"{where} has no role: {described(dict(message))}")
    if folded(role) not in ROLES:
        raise DataError(
            f"{where} has the role {role!r}, which is not known. Known are {', '.join(ROLES)}; rename it, or remove the row"
        )
    where, role = f"{where} ({role})", folded(role)
    if ROLES[role] in ("tool", "ipython") and "content" in found:
        found["content"] = _result(found["content"])
    found = {
        # TRL takes a list or a mapping; its type variable takes no value that may be either.
        name: remove_none_values(cast(list, value))
        if isinstance(value, list | dict) and name != "tool_calls"
        else value
        for name, value in found.items()
    }
    if role in _CALLS:
        found["tool_calls"] = _parsed_calls(found.pop("content", None), where)
    if "function_call" in found:  # what OpenAI's `tool_calls` were before
        found["tool_calls"] = [found.pop("function_call")]
    calls = found.pop("tool_calls", None)
    if calls:
        found["tool_calls"] = _tool_calls(calls, where, given)
    found["role"] = ROLES[role]
    if "content" in found:
        found["content"] = _content_of(found["content"], where)
    elif found["role"] != "assistant":  # whose answer is checked where it is trained on
        raise DataError(f"{where} has no content: its fields are {', '.join(f'`{name}`' for name in message)}")
    _check_flags(found, where)
    return found


def _result(content: Any) -> Any:
    """A tool's result: text or parts as they are, anything else as JSON, as chat templates write it."""
    kinds = (*_TEXT_PARTS, *_OTHER_PARTS)
    are_parts = isinstance(content, list) and all(
        isinstance(part, Mapping) and {"type", "text"} & set(part) and part.get("type", "text") in kinds
        for part in content
    )
    return content if are_parts or isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)


def _content_of(content: Any, where: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise DataError(
            f"the content of {where} is {described(content)}; expected text, or a list of parts like "
            '{"type": "text", "text": ...}'
        )
    return [_part(part, where) for part in content]


def _part(part: Any, where: str) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise DataError(
            f'a part of the content of {where} is {described(part)}; expected {{"type": "text", "text": ...}}'
        )
    kind = part.get("type", "text")
    if kind not in _TEXT_PARTS:
        raise DataError(
            f"{where} has a part of the type {kind!r}: self-play is on text alone, so only `text` can be read"
        )
    if not isinstance(part.get("text"), str):
        raise DataError(f"a part of the content of {where} is {described(dict(part))}; expected text as its `text`")
    others = [name for name in part if name not in ("type", "text", "annotations", "cache_control")]
    if others:
        raise DataError(f"a part of the content of {where} has {', '.join(map(repr, others))} beside its text")
    return {"type": "text", "text": part["text"]}


def _parsed_calls(content: Any, where: str) -> list[Any]:
    """The tool calls of a turn that consists of them, as JSON."""
    try:
        calls = json.loads(content) if isinstance(content, str) else content
    except ValueError as error:
        raise DataError(f"{where} is not valid JSON ({error}): {content[:60]!r}") from error
    calls = calls if isinstance(calls, list) else [calls]
    if not calls:
        raise DataError(f"{where} has no tool call")
    return calls


def _tool_calls(calls: Any, where: str, given: Keys) -> list[dict[str, Any]]:
    if isinstance(calls, str):
        try:
            calls = json.loads(calls)
        except ValueError as error:
            raise DataError(f"the tool calls of {where} are not valid JSON ({error}): {calls[:60]!r}") from error
    if not isinstance(calls, list):
        raise DataError(f"the tool calls of {where} are {described(calls)}; expected a list")
    return [_tool_call(call, f"tool call {i} of {where}", given) for i, call in enumerate(calls)]


def _tool_call(call: Any, where: str, given: Keys) -> dict[str, Any]:
    """A call as `{"type": "function", "function": {"name": ..., "arguments": {...}}}`."""
    found = {name: value for name, value in call.items() if value is not None} if isinstance(call, Mapping) else {}
    if "function" not in found:
        found = {
            **{name: value for name, value in found.items() if name not in ("name", "arguments", "parameters")},
            "type": "function",
            "function": {name: found[name] for name in ("name", "arguments", "parameters") if name in found},
        }
    function = found["function"]
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(
            f'{where} is {described(call)}; expected a function like {{"name": ..., "arguments": {{...}}}}'
        )
    function = {name: value for name, value in function.items() if value is not None}
    if "parameters" in function:  # Llama's word
        function.setdefault("arguments", function.pop("parameters"))
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError as error:
            raise DataError(f"the arguments of {where} are not valid JSON ({error}): {arguments[:60]!r}") from error
    elif isinstance(arguments, Mapping):
        arguments = without_foreign(arguments, function["name"], given)
    if not isinstance(arguments, Mapping):
        raise DataError(f"the arguments of {where} are {described(arguments)}; expected an object")
    return {**found, "function": {**function, "arguments": dict(arguments)}}


def _check_flags(message: Message, where: str) -> None:
    """Make a turn's `weight` and `train` booleans."""
    values: set[bool] = set()
    for name in _FLAGS:
        if name not in message:
            continue
        value = message[name]
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise DataError(f"`{name}` of {where} is {described(value)}; expected 0 or 1, or true or false")
        message[name] = bool(value)
        values.add(message[name])
    if len(values) > 1:
        raise DataError(f"`weight` and `train` of {where} contradict each other")
    if True in values and message["role"] != "assistant":
        raise DataError(f"{where} is marked to be trained on, but only an assistant's turns are answers")
