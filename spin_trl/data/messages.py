"""Convert messages of all dialects to OpenAI's format (roles, content, tool calls), and refuse anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from trl.trainer.utils import remove_none_values

from ..errors import DataError
from .nulls import Keys, without_foreign
from .reading.json_text import MESSAGE_COLUMNS, advice_on, messages_of, value_in
from .template.pair_template import Message

_CALLS = ("function_call", "tool_call")
"""Roles of turns whose text is a tool call as JSON."""

_NAMES_OF_ROLES = {
    "system": ("system",),
    "developer": ("developer",),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "ai", "bot", *_CALLS),
    "tool": ("tool", "observation", "function", "function_response", "tool_response"),
    "ipython": ("ipython",),
}
ROLES = {name: role for role, names in _NAMES_OF_ROLES.items() for name in names}
"""Known roles, including OpenAI's and ShareGPT's, and their names here. Llama's templates call a tool `ipython`. Case does
not matter ([`folded`])."""

SHAREGPT = (("from", "role"), ("value", "content"))
"""Fields of ShareGPT's messages, and their names here."""

_OLD_ROLES = {"human": "user", "gpt": "assistant"}
"""All roles that version 0.1.0 renamed."""

_FLAGS = ("weight", "train")
"""Fields that mark whether a turn is trained on."""

_TEXT_PART = '{"type": "text", "text": ...}'
_TEXT_PARTS = ("text", "input_text", "output_text")
_MEDIA_PARTS = ("image", "image_url", "input_image", "audio", "audio_url", "input_audio", "video", "video_url")
_OTHER_PARTS = (*_MEDIA_PARTS, "file", "input_file", "refusal")
"""Types of content parts: text, and those that self-play can't read."""


def as_messages(value: Any, column: str, given: Keys) -> list[Message]:
    """Convert a value to a list of messages with `role`, `content` and possibly `tool_calls`.

    Null fields count as absent, since Arrow fills them in. `weight` and `train` are kept as booleans (see [`flag_of`]).

    Args:
        value: value of a row's column.
        column: name of the column, for error messages.
        given: result of [`given_arguments`].

    Raises:
        DataError: if the value is not a list of messages, or a message has an unknown role, no content, or content that is
            neither text nor a list of text parts.
    """
    if not isinstance(value, list):
        raise unexpected(f"`{column}` is", value, "a list of messages")
    return [_as_message(message, f"message {i} of `{column}`", given) for i, message in enumerate(value)]


def parsed(value: Any, column: str) -> Any:
    """Parse a column's messages if they are JSON text, as in many Parquet files; return other values unchanged.

    Raises:
        DataError: if the text is anything else.
    """
    if not isinstance(value, str):
        return value
    try:
        return messages_of(value)
    except ValueError:
        raise DataError(f"`{column}` is {value[:60]!r}; expected {MESSAGE_COLUMNS}.{advice_on(value)}") from None


def without_empty_system(messages: Any) -> Any:
    """Remove system turns whose content is null from messages; return other values unchanged."""
    return [one for one in messages if not _is_empty_system(one)] if isinstance(messages, list) else messages


def _is_empty_system(message: Any) -> bool:
    if not isinstance(message, Mapping) or not {"content", "value"} & set(message):
        return False
    said = {name: value for name, value in message.items() if value is not None}
    role = said.pop("role", None) or said.pop("from", None)
    return folded(role) in ("system", "developer") and not said


def folded(role: Any) -> Any:
    """Normalise a role for lookup: `Human` becomes `human`, `function-call` becomes `function_call`."""
    return role.strip().lower().replace("-", "_").replace(" ", "_") if isinstance(role, str) else role


def flag_of(message: Message) -> bool | None:
    """Return whether a turn is marked to be trained on (`weight`, `train`); None if it has no mark."""
    return next((message[name] for name in _FLAGS if name in message), None)


def without_flag(message: Message) -> Message:
    return {name: value for name, value in message.items() if name not in _FLAGS}


def described(value: Any) -> str:
    """Describe a value and its type, for error messages."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    shown = repr(value[:60]) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)[:60]
    return f"{kinds.get(type(value), type(value).__name__)} ({shown})"


def unexpected(what: str, value: Any, expected: str) -> DataError:
    """Return the error for a value of an unexpected type. `what` names the value and ends with the verb."""
    return DataError(f"{what} {described(value)}; expected {expected}")


def as_hashed(messages: list[Any]) -> list[Message]:
    """Return messages as read by version 0.1.0."""
    found: list[Message] = []
    for message in remove_none_values(messages):
        for other, name in SHAREGPT:
            if other in message:
                message[name] = message.pop(other)
        role = folded(message.get("role"))
        found.append({**message, "role": _OLD_ROLES.get(role, role)})
    return found


def as_text(value: Any, column: str) -> str:
    """Return a value that must be text; null becomes empty text.

    Raises:
        DataError: if the value is anything else.
    """
    if value is not None and not isinstance(value, str):
        raise unexpected(f"`{column}` is", value, "text")
    return value or ""


def _as_message(message: Any, where: str, given: Keys) -> Message:
    if not isinstance(message, Mapping):
        like = ', like {"role": "user", "content": ...}; the role is never guessed' if isinstance(message, str) else ""
        raise unexpected(f"{where} is", message, f"an object with a role and content{like}")
    found = _without_nulls(message)
    for other, name in SHAREGPT:
        if other in found:
            found.setdefault(name, found.pop(other))
    role = found.get("role")
    if not isinstance(role, str):
        raise DataError(f"{where} has no role: {described(dict(message))}")
    if folded(role) not in ROLES:
        raise DataError(f"{where} has the unknown role {role!r}. Rename it to one of {', '.join(ROLES)}")
    where, role = f"{where} ({role})", folded(role)
    if ROLES[role] in ("tool", "ipython") and "content" in found:
        found["content"] = _result(found["content"])
    for name, value in found.items():
        if isinstance(value, list | dict) and name != "tool_calls":
            # TRL accepts a list or a mapping, but its type variable does not accept a union of both.
            found[name] = remove_none_values(cast(list, value))
    calls = found.pop("tool_calls", None)
    if role in _CALLS:
        calls = _parsed_calls(found.pop("content", None), where)
    if "function_call" in found:  # OpenAI's predecessor of `tool_calls`
        calls = [found.pop("function_call")]
    if calls:
        found["tool_calls"] = _tool_calls(calls, where, given)
    found["role"] = ROLES[role]
    if "content" in found:
        found["content"] = _content_of(found["content"], where)
    elif found["role"] != "assistant":  # an answer is checked where it is trained on
        raise DataError(f"{where} has no content: its fields are {', '.join(f'`{name}`' for name in message)}")
    _check_flags(found, where)
    return found


def _without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in value.items() if part is not None}


def _result(content: Any) -> Any:
    """Convert a tool's result: keep text or parts, and write anything else as JSON, as chat templates do."""
    are_parts = isinstance(content, list) and all(map(_is_part, content))
    return content if are_parts or isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)


def _is_part(value: Any) -> bool:
    kinds = (*_TEXT_PARTS, *_OTHER_PARTS)
    return isinstance(value, Mapping) and bool({"type", "text"} & set(value)) and value.get("type", "text") in kinds


def _content_of(content: Any, where: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise unexpected(f"the content of {where} is", content, f"text, or a list of parts like {_TEXT_PART}")
    return [_part(part, where) for part in content]


def _part(part: Any, where: str) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise unexpected(f"a part of the content of {where} is", part, _TEXT_PART)
    kind = part.get("type", "text")
    if kind not in _TEXT_PARTS:
        raise DataError(
            f"{where} has a part of type {kind!r}; self-play only supports text, so the type must be `text`"
        )
    if not isinstance(part.get("text"), str):
        raise unexpected(f"a part of the content of {where} is", dict(part), "text as its `text`")
    others = [name for name in part if name not in ("type", "text", "annotations", "cache_control")]
    if others:
        raise DataError(f"a part of the content of {where} has {', '.join(map(repr, others))} in addition to its text")
    return {"type": "text", "text": part["text"]}


def _parsed_calls(content: Any, where: str) -> list[Any]:
    """Parse the tool calls of a turn that consists of them as JSON."""
    calls = value_in(content, f"{where} is", [])
    calls = calls if isinstance(calls, list) else [calls]
    if not calls:
        raise DataError(f"{where} has no tool call")
    return calls


def _tool_calls(calls: Any, where: str, given: Keys) -> list[dict[str, Any]]:
    calls = value_in(calls, f"the tool calls of {where} are")
    if not isinstance(calls, list):
        raise unexpected(f"the tool calls of {where} are", calls, "a list")
    return [_tool_call(call, f"tool call {i} of {where}", given) for i, call in enumerate(calls)]


def _tool_call(call: Any, where: str, given: Keys) -> dict[str, Any]:
    """Convert a tool call to `{"type": "function", "function": {"name": ..., "arguments": {...}}}`."""
    found = _without_nulls(call) if isinstance(call, Mapping) else {}
    if "function" not in found:
        inside = {name: found.pop(name) for name in ("name", "arguments", "parameters") if name in found}
        found |= {"type": "function", "function": inside}
    function = found["function"]
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise unexpected(f"{where} is", call, 'a function like {"name": ..., "arguments": {...}}')
    function = _without_nulls(function)
    if "parameters" in function:  # Llama's name for it
        function.setdefault("arguments", function.pop("parameters"))
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = value_in(arguments, f"the arguments of {where} are", {})
    elif isinstance(arguments, Mapping):
        arguments = without_foreign(arguments, function["name"], given)
    if not isinstance(arguments, Mapping):
        raise unexpected(f"the arguments of {where} are", arguments, "an object")
    return {**found, "function": {**function, "arguments": dict(arguments)}}


def _check_flags(message: Message, where: str) -> None:
    """Convert a turn's `weight` and `train` to booleans."""
    flags = {name: message[name] for name in _FLAGS if name in message}
    for name, value in flags.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise unexpected(f"`{name}` of {where} is", value, "0 or 1, or true or false")
        message[name] = bool(value)
    values = set(map(bool, flags.values()))
    if len(values) > 1:
        raise DataError(f"`weight` and `train` of {where} contradict each other")
    if True in values and message["role"] != "assistant":
        raise DataError(f"{where} is marked to be trained on, but only assistant turns can be")
