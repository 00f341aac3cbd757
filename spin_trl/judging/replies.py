"""The judge's reply: found in the answer of the endpoint, and checked against the schema that was asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..files import parse_json

_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(?P<inside>.*?)\n?```\s*", re.DOTALL)
_TYPE_OF: Mapping[str, type] = {"object": dict, "string": str, "integer": int}


class InvalidReplyError(ValueError):
    """A reply of the judge is not of the form that was asked for. The message describes it in words of its own."""


@dataclass(frozen=True)
class ChatAnswer:
    """The answer of an endpoint to one request.

    Attributes:
        content: text of the reply; empty if there is none.
        tokens: tokens of the request and the reply together; None if the endpoint does not say.
        is_cut: whether the reply reached `max_tokens`.
    """

    content: str
    tokens: int | None
    is_cut: bool


def read_chat_answer(body: bytes) -> ChatAnswer:
    """Return what an endpoint answered to a request for one reply.

    Raises:
        InvalidReplyError: if it is no answer of `/chat/completions`.
    """
    try:
        found = parse_json(body)
    except ValueError:
        raise InvalidReplyError("the endpoint's answer is not JSON") from None
    choices = found.get("choices") if isinstance(found, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict):
        raise InvalidReplyError("the endpoint's answer has no `choices` with a `message`")
    usage = found.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    content = message.get("content")
    return ChatAnswer(
        content if isinstance(content, str) else "",
        tokens if type(tokens) is int and tokens >= 0 else None,
        first.get("finish_reason") == "length",
    )


def verdict_in(content: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON object that a reply consists of.

    A thought before it, in `<think>`, and a fence around it are passed over. Other text is not: a reply that quotes an
    answer may contain an object that is not the judge's.

    Args:
        content: text of the reply.
        schema: schema that the object must have.

    Raises:
        InvalidReplyError: if it is anything else, or has another schema.
    """
    text = _THOUGHT.sub("", content, count=1) if content.lstrip().startswith("<think>") else content
    fenced = _FENCED.fullmatch(text)
    try:
        found = parse_json(fenced["inside"] if fenced is not None else text)
    except ValueError:
        raise InvalidReplyError("it was not JSON" if text.strip() else "it was empty") from None
    if (wrong := against_schema(found, schema)) is not None:
        raise InvalidReplyError(wrong)
    return dict(found)


def against_schema(value: Any, schema: Mapping[str, Any], where: str = "the object") -> str | None:
    """Return what is wrong with a value, in words that quote nothing of it; None if it has the schema.

    Args:
        value: parsed JSON.
        schema: JSON schema, of which `type`, `enum`, `properties` and `required` are used; other properties are refused.
        where: name of the value.
    """
    kind = schema["type"]
    if not isinstance(value, _TYPE_OF[kind]) or isinstance(value, bool):
        return f"{where} was not of the type {kind}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} was none of {', '.join(map(str, schema['enum']))}"
    if not isinstance(value, dict):
        return None
    properties = schema["properties"]
    missing = next((name for name in schema["required"] if name not in value), None)
    if missing is not None:
        return f"{where} had no {missing}"
    if value.keys() - properties.keys():
        return f"{where} had keys that the schema does not have"
    found = (against_schema(part, properties[name], name) for name, part in value.items())
    return next((wrong for wrong in found if wrong is not None), None)
