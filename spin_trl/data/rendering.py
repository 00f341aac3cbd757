"""Conversations become text, and every text of a conversation is proved to be in it.

A chat template may leave a turn out, write a list of parts as Python prints it, or drop a system message, without a word. So
the conversation is first rendered with markers in place of its texts ([`markers`]), once for each kind of conversation: the
same roles, fields and arguments of the template. What a row is rendered to is then compared with that. Where a template
looks at the texts themselves, the row is rendered a second time, with a marker inside each of its texts.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError as JinjaError
from transformers import PreTrainedTokenizerBase

from ..errors import DataError, TemplateError
from . import notes
from .markers import (
    CALL,
    CALL_FIELDS,
    CONTENT,
    ESCAPES,
    TEXT,
    THINKING,
    THINKING_FIELDS,
    Form,
    Found,
    Mark,
    Message,
    Slot,
    find,
    find_inside,
    forms,
    inside,
    own,
    plain,
    probe,
    stripped,
    without_markers,
    written,
)

KINDS = 512
"""Kinds of conversations that are remembered."""

_RESULT_ROLES = ("tool", "ipython", "function")
_FIELDS = ("role", "content", "id", "tool_call_id", *CALL_FIELDS, *THINKING_FIELDS)
"""Of messages: what must be shown, and ids, which may be left out."""
_ANSWER = 99_999  # number of the marker that stands for a plain answer
_TOOL = "Qz99998zQ"
_PROBE_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": _TOOL,
            "description": "Finds a boat.",
            "parameters": {
                "type": "object",
                "properties": {"colour": {"type": "string", "description": "Of the boat."}},
                "required": ["colour"],
            },
        },
    }
]
_TURN_SCAFFOLD = re.compile(r"(?:\s|<[^<>\s]*>|model|assistant)*")
_THINKING_SCAFFOLD = re.compile(
    r"(?:\s|<[^<>]*(?:think|thought|reason)[^<>]*>|\[/?think\]|<\|?channel\|?>(?:analysis|thought)?)*", re.IGNORECASE
)


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: prompt, answer, and what the template writes behind it.
        start: where the answer starts in it: a generation starts there.
        end: where the last text of the answer ends.
        answer: the answer's own texts, in the order of the message.
        notes: what the template left out or changed, of [`notes`].
    """

    text: str
    start: int
    end: int
    answer: tuple[str, ...]
    notes: frozenset[str]


class _FormError(TemplateError):
    """Why a form of a conversation can't be used, and how bad that is."""

    def __init__(self, message: str, badness: float) -> None:
        super().__init__(message)
        self.badness = badness


@dataclass(frozen=True)
class _Split:
    """A conversation of markers, rendered."""

    text: str
    found: list[Found]
    slots: list[Slot]
    start: int
    notes: frozenset[str]

    @property
    def end(self) -> int:
        """Where the last text of the answer ends."""
        last = self.slots[-1].message
        return max(one.stop for one in self.found if self.slots[one.number].message == last)


@dataclass(frozen=True)
class _Kind:
    """How conversations of a kind are rendered.

    Attributes:
        form: in which the template understands them.
        options: further arguments of the template.
        segments: of the rendered conversation: what the template writes; slots, each with how it is written; and None where
            the answer starts.
        end: number of the segment that is the answer's last text.
        notes: what is noticed about every conversation of this kind.
        is_matchable: whether a row differs from the kind's markers in nothing but its texts.
    """

    form: Form
    options: dict[str, Any]
    segments: list[str | tuple[int, str] | None]
    end: int
    notes: frozenset[str]
    is_matchable: bool


class ConversationRenderer:
    """Renders conversations with a tokenizer's chat template.

    Args:
        tokenizer: with the chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._kinds: OrderedDict[str, _Kind | str] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kinds": OrderedDict()}

    def render(self, prompt: list[Message], response: Message, options: Mapping[str, Any]) -> Rendered:
        """Render a prompt and its answer.

        Args:
            prompt: messages before the answer.
            response: the assistant's message.
            options: `tools`, and other arguments of the template.

        Raises:
            TemplateError: the template fails, or leaves out or rewrites something that is neither mere outer space nor the
                thinking of an earlier answer; or no generation could start where the answer does.
            DataError: the tokenizer has no chat template, or a message holds something else than text.
        """
        messages = [*prompt, response]
        kind = self._kind_of(messages, options)
        mine = {**options, **kind.options}
        marked, slots = written(messages, kind.form, own)
        text = self.apply(marked, mine)
        matched = _match(text, kind, slots) if kind.is_matchable else None
        if matched is None:
            return self._render_by_itself(messages, text, kind, mine)
        start, end, is_stripped = matched
        found = kind.notes | {notes.SPACE} if is_stripped else kind.notes
        return Rendered(text, start, end, _own_answer(slots), found)

    def apply(self, messages: list[Message], options: Mapping[str, Any], *, generate: bool = False) -> str:
        """What the template makes of messages, as they are.

        Raises:
            TemplateError: it fails.
            DataError: there is none.
        """
        if self.tokenizer.chat_template is None:
            raise DataError(
                "The data is conversational, but the tokenizer has no chat template. Set `tokenizer.chat_template`, use "
                "the tokenizer of a chat model, or give plain `prompt` and `completion` text."
            )
        try:
            return str(
                self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate, **options)
            )
        except Exception as error:  # a template is a program: it raises what it likes
            badness = 2 if type(error) is JinjaError else 1000  # the template's own complaint, or a mishap
            raise _FormError(f"The chat template fails on this conversation: {error}", badness) from error

    # ---- kinds --------------------------------------------------------------------------------------------------------

    def _kind_of(self, messages: list[Message], options: Mapping[str, Any]) -> _Kind:
        marked, _ = written(messages, Form(), probe)
        rest = {name: value for name, value in options.items() if name != "tools"}
        name = json.dumps([marked, rest, bool(options.get("tools"))], default=str, sort_keys=True)
        if name in self._kinds:
            self._kinds.move_to_end(name)
        else:
            try:
                self._kinds[name] = self._prove(messages, options)
            except TemplateError as error:
                self._kinds[name] = str(error)
            if len(self._kinds) > KINDS:
                self._kinds.popitem(last=False)
        kind = self._kinds[name]
        if isinstance(kind, str):
            raise TemplateError(kind)
        return kind

    def _prove(self, messages: list[Message], options: Mapping[str, Any]) -> _Kind:
        """The first form of a conversation in which the template writes all of it."""
        tools = {"tools": _PROBE_TOOLS if options.get("tools") else None}
        refusals: list[_FormError] = []
        for form in forms(messages):
            try:
                split, more = self._split_with_or_without_thinking(messages, form, {**options, **tools})
            except _FormError as refusal:
                refusals.append(refusal)
                continue
            found = set(split.notes)
            has_tools = tools["tools"] is not None and _TOOL in split.text
            if tools["tools"] is not None and not has_tools:
                found.add(notes.TOOLS)
            if more:
                found.add(notes.NO_THINKING)
            unused = self._unused_fields(messages, form, {**options, **tools, **more}, split.text)
            found |= {notes.FIELD + name for name in unused}
            segments, end = _segments(split)
            return _Kind(form, more, segments, end, frozenset(found), not has_tools)
        worst = min(refusals, key=lambda refusal: refusal.badness)
        raise TemplateError(str(worst) + self._where_it_fails(messages, options, worst))

    def _unused_fields(self, messages: list[Message], form: Form, options: Mapping[str, Any], text: str) -> list[str]:
        """Fields of messages without which a conversation of markers is rendered all the same."""
        names = [
            name
            for message in messages
            for name, value in message.items()
            if name not in _FIELDS and value not in ("", [], {}) and (name != "name" or not _is_result(message))
        ]
        marked, _ = written(messages, form, probe)

        def is_unused(fields: Sequence[str]) -> bool:
            without = [{name: value for name, value in one.items() if name not in fields} for one in marked]
            try:
                return self.apply(without, options) == text
            except TemplateError:
                return False

        names = sorted(set(names))
        return names if not names or is_unused(names) else [name for name in names if is_unused([name])]

    def _where_it_fails(self, messages: list[Message], options: Mapping[str, Any], refusal: _FormError) -> str:
        """The message with which a template begins to fail, if it is one that can be told."""
        if "fails on this conversation" not in str(refusal):
            return ""
        for number in range(len(messages)):
            try:
                self.apply(written(messages[: number + 1], Form(), probe)[0], options)
            except TemplateError:
                return f" (from message {number} on, role {messages[number].get('role')!r})"
        return ""

    def _split_with_or_without_thinking(
        self, messages: list[Message], form: Form, options: Mapping[str, Any]
    ) -> tuple[_Split, dict[str, Any]]:
        """A conversation of markers, and the argument without which no answer can stand where a generation starts."""
        split = self._split(messages, form, options, probe)
        if notes.RECORDED_START not in split.notes or options.get("enable_thinking") is False:
            return split, {}
        more = {"enable_thinking": False}
        try:
            without = self._split(messages, form, {**options, **more}, probe)
        except TemplateError:
            return split, {}
        if notes.RECORDED_START in without.notes:
            return split, {}
        if options.get("enable_thinking"):
            raise _FormError(
                "The chat template opens a thinking block where a generation starts, and this answer has none, so a real "
                "response can't stand where a generated one does. Set `chat_template_kwargs: {enable_thinking: false}`, "
                "with which this template works.",
                0.5,
            )
        return without, more

    # ---- one conversation ---------------------------------------------------------------------------------------------

    def _split(self, messages: list[Message], form: Form, options: Mapping[str, Any], mark: Mark) -> _Split:
        """Render a marked conversation, and find where its answer starts.

        Raises:
            _FormError: something is missing, or a generation could not start there.
        """
        marked, slots = written(messages, form, mark)
        text = self.apply(marked, options)
        found = find(text, slots) if mark is probe else find_inside(text, slots)
        expected = [slot for slot in slots if mark is probe or slot.holds == TEXT]
        noticed = _check(text, found, expected, messages)
        last = len(messages) - 1
        answer = [one for one in found if slots[one.number].message == last]
        if not answer:
            raise _FormError(f"The chat template leaves out the answer (message {last}).", 1)
        before = self.apply(marked[:-1], options, generate=True)
        first = min(answer, key=lambda one: one.start)
        head: str | None = text[: first.start]
        # Not of what the row itself puts before its text: a `<think>` block, a call.
        is_first = str(messages[-1].get("content")).startswith(str(slots[first.number].value))
        if {slots[one.number].field for one in answer} != {CONTENT} or not is_first:
            head = self._head(marked, form, options)
        is_behind_result = bool(messages[:-1]) and _is_result(messages[-2])
        start, is_recorded = self._start(text, before, head, is_behind_result=is_behind_result)
        if is_recorded:
            noticed.add(notes.RECORDED_START)
        if start > first.start or any(one.stop > start for one in found if slots[one.number].message != last):
            raise _FormError("The chat template writes parts of the prompt behind the answer.", 1)
        return _Split(text, found, slots, start, frozenset(noticed))

    def _head(self, marked: list[Message], form: Form, options: Mapping[str, Any]) -> str | None:
        """What stands before an answer that is nothing but text."""
        content: Any = plain(_ANSWER)
        if form.content == "parts" or (form.content == "own" and isinstance(marked[-1].get("content"), list)):
            content = [{"type": "text", "text": content}]
        try:
            text = self.apply([*marked[:-1], {"role": marked[-1]["role"], "content": content}], options)
        except TemplateError:
            return None
        head, marker, _ = text.partition(plain(_ANSWER))
        return head if marker else None

    def _start(self, text: str, before: str, head: str | None, *, is_behind_result: bool) -> tuple[int, bool]:
        """Where the answer starts in a rendered conversation, and whether that is where recorded answers start only."""
        has_head = head is not None and text.startswith(head)
        if text.startswith(before):
            # What the template puts before every answer (an empty thinking block, say) belongs to the prompt.
            # A mere space does not: tokenizers join it to the answer's first word, and so do generations.
            if has_head and head is not None and head.startswith(before) and head[len(before) :].strip(" "):
                return len(head), False
            return len(before), False
        # Behind a tool's result, templates close a turn for a generation that a recorded answer goes on with, or not.
        scaffolds = (_THINKING_SCAFFOLD, _TURN_SCAFFOLD) if is_behind_result else (_THINKING_SCAFFOLD,)
        if has_head and head is not None and any(_differ_alone_in(one, before, head) for one in scaffolds):
            return len(head), True
        rendered = head if has_head and head is not None else text
        common = _common(before, rendered)
        raise _FormError(
            f"The chat template starts a generation with {_shown(before[common:])!r}, but renders a recorded answer with "
            f"{_shown(rendered[common:])!r} in its place, so a real response can't stand where a generated one does. Use "
            "another chat template, or plain `prompt` and `completion` text.",
            0.75,
        )

    def _render_by_itself(
        self, messages: list[Message], text: str, kind: _Kind, options: Mapping[str, Any]
    ) -> Rendered:
        """A row whose texts, or tools, change what the template writes around them."""
        split = self._split(messages, kind.form, options, inside)
        if without_markers(split.text) != text:
            raise TemplateError(
                "The chat template renders this conversation in another way as soon as a word of it changes, so it can't be "
                "seen whether all of it is there."
            )
        start, end = (len(without_markers(split.text[:place])) for place in (split.start, split.end))
        return Rendered(text, start, end, _own_answer(split.slots), split.notes | (kind.notes - {notes.THINKING}))


def _check(text: str, found: Sequence[Found], expected: Sequence[Slot], messages: Sequence[Message]) -> set[str]:
    """What is noticed of a rendered conversation of markers.

    Raises:
        _FormError: a text is missing, is written in another way, or stands in another place.
    """
    slots = {slot.number: slot for slot in expected}
    by_number: dict[int, list[Found]] = {}
    for one in found:
        by_number.setdefault(one.number, []).append(one)
    last = len(messages) - 1
    noticed: set[str] = set()
    problems: list[str] = []
    for slot in expected:
        places = by_number.get(slot.number, [])
        if not places:
            if slot.field == THINKING and slot.message != last:
                noticed.add(notes.THINKING)
            elif slot.is_required:
                problems.append(f"leaves out {_described(slot, last)}")
        elif any(not _is_known(one, slot, text) for one in places):
            problems.append(f"does not write {_described(slot, last)} as it is")
        elif slot.message == last and slot.field in (CONTENT, THINKING) and len(places) > 1:
            problems.append(f"writes {_described(slot, last)} more than once")
    # Templates that put the system's message before all others, or before the last, do so at inference, too.
    order = [slots[one.number].message for one in found if one.number in slots and slots[one.number].is_required]
    groups = _groups(messages)
    order = [groups[number] for number in order if messages[number].get("role") not in ("system", "developer")]
    if not problems and order != sorted(order):
        problems.append("writes the messages in another order")
    if problems:
        raise _FormError(
            f"The chat template {problems[0]}, so {_lost(problems[0])}. Use another chat template, or leave such rows out.",
            len(problems),
        )
    return noticed


def _is_result(message: Message) -> bool:
    return message.get("role") in _RESULT_ROLES


def _groups(messages: Sequence[Message]) -> list[int]:
    """The number of every message's turn: tools answer within the turn that calls them, before or after its text."""
    groups: list[int] = []
    for message in messages:
        groups.append((groups[-1] if groups else 0) + (not (_is_result(message) and groups)))
    return groups


def _is_known(one: Found, slot: Slot, text: str) -> bool:
    """Whether a text stands there as it is, or, in calls and results, as JSON."""
    if slot.is_key and text[: one.start].endswith("'") and text.startswith("':", one.stop):
        return False  # a dict as Python prints it
    if slot.field == CALL or not slot.is_required:
        return one.escape is not None  # the strings of a call may be Python's: some models call tools in it
    if slot.role in _RESULT_ROLES:
        return one.escape not in (None, "Python")
    return one.escape == "as it is"


def _described(slot: Slot, last: int) -> str:
    what = {CONTENT: "the content", THINKING: "the thinking", CALL: "a tool call"}.get(slot.field, f"`{slot.field}`")
    return f"{what} of message {slot.message} (role {slot.role!r}{', the answer' if slot.message == last else ''})"


def _lost(problem: str) -> str:
    return "the model would not see it" if problem.startswith("leaves out") else "the model would see something else"


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike, without half a tag."""
    common = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    opened = one.rfind("<", 0, common)
    return opened if opened > one.rfind(">", 0, common) else common


def _differ_alone_in(scaffold: re.Pattern[str], before: str, head: str) -> bool:
    """Whether a generation's start and a recorded answer's differ in scaffolding, and in nothing else."""
    common = _common(before, head)
    return all(scaffold.fullmatch(rest) for rest in (before[common:], head[common:]))


def _shown(text: str) -> str:
    """The beginning of a rendered text, with dots for its markers."""
    return re.sub(r"Qz\d{5}zQ(?:.*?Qy\d{5}yQ)?", "...", text, flags=re.DOTALL)[:60]


def _segments(split: _Split) -> tuple[list[str | tuple[int, str] | None], int]:
    """A rendered conversation of markers as what the template writes, and slots, and None where the answer starts."""
    segments: list[str | tuple[int, str] | None] = []
    place, end, last = 0, 0, split.slots[-1].message
    is_started = False
    for one in split.found:
        if not is_started and split.start <= one.start:
            segments += [split.text[place : split.start], None]
            place, is_started = split.start, True
        if place < one.start:
            segments.append(split.text[place : one.start])
        segments.append((one.number, one.escape or "as it is"))
        place = one.stop
        if split.slots[one.number].message == last:
            end = len(segments) - 1
    segments.append(split.text[place:])
    return segments, end


def _match(text: str, kind: _Kind, slots: Sequence[Slot]) -> tuple[int, int, bool] | None:
    """Where the answer starts and ends in a row's text, and whether outer space is missing; None: it reads otherwise."""
    place = start = end = 0
    is_stripped = False
    for number, segment in enumerate(kind.segments):
        if segment is None:
            start = place
        elif isinstance(segment, str):
            if not text.startswith(segment, place):
                return None
            place += len(segment)
        else:
            variants = _variants(slots[segment[0]], ESCAPES[segment[1]])
            fitting = [one for one in variants if text.startswith(one, place)]
            if len(fitting) > 1:  # the one behind which the template goes on
                behind = next((one for one in kind.segments[number + 1 :] if isinstance(one, str)), "")
                fitting = [one for one in fitting if text.startswith(behind, place + len(one))] or fitting
            if not fitting:
                return None
            is_stripped = is_stripped or fitting[0] != variants[0]
            place += len(fitting[0])
            if number == kind.end:
                end = place
    return (start, end, is_stripped) if place == len(text) else None


def _variants(slot: Slot, write: Callable[[str], str]) -> list[str]:
    """What may stand for a slot's text."""
    if isinstance(slot.value, str):
        return [write(one) for one in stripped(slot.value)]
    return [json.dumps(slot.value)]


def _own_answer(slots: Sequence[Slot]) -> tuple[str, ...]:
    last = slots[-1].message
    return tuple(slot.value for slot in slots if slot.message == last and slot.holds == TEXT)
