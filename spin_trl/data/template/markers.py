"""Replace every text of a conversation by a marker, to find out what a chat template does to it.

A template is a program: searching its output for a row's own text, which may occur twice or be a single letter, can't show
what it leaves out, moves or changes. A marker is unique, and contains the characters that Python and JSON escape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from ...files import parse_json

Message = dict[str, Any]

CONTENT, THINKING, CALL, OTHER = "content", "thinking", "tool call", "other field"
"""Role of a text in its message."""

TEXT, NAME, NUMBER = "text", "name", "number"
"""Possible content of a text: anything; a word; digits."""

THINKING_FIELDS = ("reasoning_content", "thinking", "reasoning")
CALL_FIELDS = ("tool_calls", "function_call")
_THINKING = re.compile(r"(\s*(?:<think>)?\s*)(.*?)(\s*</think>\s*)(.*)", re.DOTALL)
_TELLING_CHARACTERS = "'\"\n\\é"  # characters that repr, JSON or ASCII JSON would escape
_FIRST_NUMBER = 9_100_000_000
_MARKER = re.compile(r"Qz(\d{5})zQ|91(\d{8})(?:\.5)?")


def text_of(content: Any) -> str:
    """Return the text of a message's content, which may be text, a list of parts, or missing."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


@dataclass(frozen=True)
class ConversationForm:
    """A way to represent a conversation: templates differ in those that they support.

    Attributes:
        content: content of messages: `own`, `text`, or `parts` (a list like `[{"type": "text", "text": ...}]`).
        arguments: arguments of tool calls: `object`, or `string` for JSON text.
        empty: content of a tool call without text: `own`, `text` or `none`.
    """

    content: str = "own"
    arguments: str = "object"
    empty: str = "own"


@dataclass(frozen=True)
class Slot:
    """A text of a conversation that can be replaced by a marker.

    Attributes:
        number: number of the slot, counted from 0 throughout the conversation.
        message: number of the slot's message.
        role: role of that message.
        field: role of the text in the message (`CONTENT`, ...).
        holds: possible content (`TEXT`, `NAME` or `NUMBER`).
        value: the row's own value.
        is_key: whether the text is the name of an argument.
    """

    number: int
    message: int
    role: str
    field: str
    holds: str
    value: Any
    is_key: bool = False

    @property
    def is_required(self) -> bool:
        """Whether the template must write the text."""
        return self.field != OTHER


Mark = Callable[[Slot], Any]


def own(slot: Slot) -> Any:
    """A mark that leaves every text unchanged."""
    return slot.value


def probe(slot: Slot) -> Any:
    """A mark that replaces every text by a unique marker, which reveals how it is changed."""
    if slot.holds == NUMBER:
        number = _FIRST_NUMBER + slot.number
        return number + 0.5 if isinstance(slot.value, float) else number
    return plain_marker(slot.number) + (f"{_TELLING_CHARACTERS}Qy{slot.number:05d}yQ" if slot.holds == TEXT else "")


def inside(slot: Slot) -> Any:
    """A mark that inserts a marker into the middle of a row's own text, whose beginning and end stay the same."""
    if slot.holds != TEXT:
        return slot.value
    middle = len(slot.value) // 2
    return slot.value[:middle] + plain_marker(slot.number) + slot.value[middle:]


def plain_marker(number: int) -> str:
    """Return a marker of nine letters and digits, the format that some templates require for a tool call's id."""
    return f"Qz{number:05d}zQ"


ESCAPES: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "JSON": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "ASCII JSON": lambda text: json.dumps(text)[1:-1],
    "Python": lambda text: re.sub(r"[\\']", r"\\\g<0>", text).replace("\n", "\\n").replace("\r", "\\r"),
}
"""Functions that write a text in the ways that a template may use."""


@dataclass(frozen=True)
class Found:
    """A marker in a rendered conversation: its slot, its position, and how it was escaped (None: in an unknown way)."""

    number: int
    start: int
    stop: int
    escape: str | None


def find_markers(rendered: str, slots: Sequence[Slot]) -> list[Found]:
    """Return the markers of [`probe`] in a rendered conversation, in order."""
    found = []
    for match in _MARKER.finditer(rendered):
        number = int(match[1] or match[2])
        if number >= len(slots):
            continue
        escape: str | None = "as it is"
        stop = match.end()
        if match[1] and slots[number].holds == TEXT:
            rests = {name: write(f"{_TELLING_CHARACTERS}Qy{number:05d}yQ") for name, write in ESCAPES.items()}
            known = [name for name, rest in rests.items() if rendered.startswith(rest, stop)]
            escape, stop = (known[0], stop + len(rests[known[0]])) if known else (None, stop)
        found.append(Found(number, match.start(), stop, escape))
    return found


def find_inside(rendered: str, slots: Sequence[Slot]) -> list[Found]:
    """Return the markers of [`inside`], extended to the row's whole text around them (`escape` None: a part is missing)."""
    found = []
    for match in _MARKER.finditer(rendered):
        if not match[1] or int(match[1]) >= len(slots) or (slot := slots[int(match[1])]).holds != TEXT:
            continue
        middle = len(slot.value) // 2
        before, behind = slot.value[:middle], slot.value[middle:]
        start, stop, escape = match.start(), match.end(), None
        for name, write in ESCAPES.items():
            left = next((a for a in stripped(before, "left") if rendered[:start].endswith(write(a))), None)
            right = next((b for b in stripped(behind, "right") if rendered.startswith(write(b), stop)), None)
            if left is not None and right is not None:
                start, stop, escape = start - len(write(left)), stop + len(write(right)), name
                break
        found.append(Found(slot.number, start, stop, escape))
    return found


def without_markers(rendered: str) -> str:
    """Remove the markers of [`inside`] from a rendered conversation."""
    return re.sub(r"Qz\d{5}zQ", "", rendered)


def stripped(text: str, side: str = "both") -> list[str]:
    """Return a text and its variants with white space around it stripped."""
    strips = {"left": (str.lstrip,), "right": (str.rstrip,), "both": (str.strip, str.rstrip, str.lstrip)}[side]
    if text == text.strip():
        return [text]
    variants = [strip(text, characters) for characters in (None, "\n", " ") for strip in strips]
    return list(dict.fromkeys([text, *variants]))


def forms(messages: Sequence[Message]) -> Iterator[ConversationForm]:
    """Yield the forms in which a conversation can be represented, its own form first."""
    kinds = {type(message["content"]).__name__ for message in messages if message.get("content", "") not in ("", None)}
    contents = {frozenset({"str"}): ["own", "parts"], frozenset({"list"}): ["own", "text"]}
    has_calls = any(message.get(field) for message in messages for field in CALL_FIELDS)
    has_empty = has_calls and any(not message.get("content") for message in messages)
    for content in contents.get(frozenset(kinds), ["own", "text", "parts"]):
        for arguments in ("object", "string") if has_calls else ("object",):
            for empty in ("own", "text", "none") if has_empty else ("own",):
                yield ConversationForm(content, arguments, empty)


def written_with_markers(
    messages: Sequence[Message], form: ConversationForm, mark: Mark
) -> tuple[list[Message], list[Slot]]:
    """Write a conversation in a form, with every text marked; also return its texts as slots.

    Raises:
        DataError: if content has a part that is not text.
    """
    writer = _Writer(form, mark)
    return [writer.message(number, message) for number, message in enumerate(messages)], writer.slots


class _Writer:
    def __init__(self, form: ConversationForm, mark: Mark) -> None:
        self.form, self.mark = form, mark
        self.slots: list[Slot] = []
        self._ids: dict[str, Any] = {}
        self._of_message: dict[str, Callable[[Any], Any]] = {
            "role": lambda role: role,
            "content": self._content,
            "tool_call_id": self._id,
            "id": self._id,
            **dict.fromkeys(THINKING_FIELDS, lambda value: self._tree(value, THINKING)),
            **dict.fromkeys(CALL_FIELDS, self._call),
        }
        self._of_call: dict[str, Callable[[Any], Any]] = {
            "id": self._id,
            "function": self._call,
            "name": lambda name: self._slot(name, CALL, NAME) if isinstance(name, str) else name,
            "arguments": self._arguments,
        }

    def message(self, number: int, message: Message) -> Message:
        self._number, self._role = number, str(message.get("role"))
        result: Message = {
            field: self._of_message[field](value) if field in self._of_message else self._tree(value, OTHER)
            for field, value in message.items()
        }
        if self.form.empty != "own" and not message.get("content") and any(map(message.get, CALL_FIELDS)):
            result["content"] = "" if self.form.empty == "text" else None
        return result

    def _slot(self, value: Any, field: str, holds: str, *, is_key: bool = False) -> Any:
        slot = Slot(len(self.slots), self._number, self._role, field, holds, value, is_key)
        self.slots.append(slot)
        return self.mark(slot)

    def _content(self, content: Any) -> Any:
        if isinstance(content, list):
            texts = [self._text_of_part(part) for part in content]
            if self.form.content != "text":
                return [{"type": "text", "text": self._with_thinking(text)} for text in texts]
            return self._with_thinking("".join(texts))
        if content is None or content == "":
            return content
        text = self._with_thinking(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False))
        return [{"type": "text", "text": text}] if self.form.content == "parts" else text

    def _text_of_part(self, part: Any) -> str:
        if isinstance(part, str):
            return part
        text = part.get("text") if isinstance(part, dict) else None
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if not isinstance(text, str) or kind not in (None, "text", "input_text", "output_text"):
            where = f"message {self._number} (role {self._role!r})"
            raise DataError(f'{where} has a content part of type {kind!r}; expected {{"type": "text", "text": ...}}')
        return text

    def _with_thinking(self, text: str) -> str:
        """Mark the text of a message. An answer's `<think>` block is a separate text, since templates may leave it out."""
        match = _THINKING.fullmatch(text) if self._role == "assistant" and "</think>" in text else None
        if match is None:
            return str(self._tree(text, CONTENT))
        return f"{match[1]}{self._tree(match[2], THINKING)}{match[3]}{self._tree(match[4], CONTENT)}"

    def _call(self, call: Any) -> Any:
        """Mark a call, or a list of calls."""
        if isinstance(call, list):
            return [self._call(one) for one in call]
        if not isinstance(call, dict):
            return self._tree(call, CALL)
        # The only other field is `type`, the type of the call.
        return {name: self._of_call[name](value) if name in self._of_call else value for name, value in call.items()}

    def _arguments(self, arguments: Any) -> Any:
        if isinstance(arguments, str):
            try:
                arguments = parse_json(arguments)
            except ValueError:
                return self._tree(arguments, CALL)
        marked = self._tree(arguments, CALL)
        return json.dumps(marked, ensure_ascii=False) if self.form.arguments == "string" else marked

    def _id(self, value: Any) -> Any:
        """Mark an id consistently wherever it occurs: a result refers to its call by it."""
        if not isinstance(value, str) or not value:
            return value
        if value not in self._ids:
            self._ids[value] = self._slot(value, OTHER, NAME)
        return self._ids[value]

    def _tree(self, value: Any, field: str) -> Any:
        """Mark every key and every leaf of a JSON value that can be replaced by a marker."""
        if isinstance(value, dict):
            return {self._slot(key, field, NAME, is_key=True): self._tree(one, field) for key, one in value.items()}
        if isinstance(value, list):
            return [self._tree(one, field) for one in value]
        if isinstance(value, str) and value.strip():
            return self._slot(value, field, NAME if field == OTHER else TEXT)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._slot(value, field, NUMBER)
        return value
