"""Render conversations as text, and verify that the result contains every text of the conversation.

A chat template may silently leave out a turn, write a list of parts as printed by Python, or drop a system message. So each
kind of conversation (same roles, fields and template arguments) is first rendered once with markers in place of its texts
([`markers`]), and rows are compared with the result. If a template depends on the texts themselves, the row is rendered a
second time, with a marker inside each of its texts.
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError as JinjaError
from transformers import PreTrainedTokenizerBase

from ...errors import DataError, TemplateError
from .. import notes
from . import markers
from .kinds import Kind, Span, Split, match, segments_of
from .markers import CALL_FIELDS, CONTENT, TEXT, THINKING_FIELDS, ConversationForm, Mark, Message, Slot
from .proof import FormError, check, is_result, start_of_answer

REMEMBERED_KINDS = 512
"""Number of kinds of conversations to cache."""

Options = Mapping[str, Any]
"""`tools`, and other arguments of a chat template."""

_FIELDS = ("role", "content", "id", "tool_call_id", *CALL_FIELDS, *THINKING_FIELDS)
"""Fields of messages that must be written, and ids, which may be left out."""
_ANSWER = 99_999  # number of the marker for a plain-text answer
_TOOL = "Qz99998zQ"
_ARGUMENT = {"type": "string", "description": "Of the boat."}
_ARGUMENTS = {"type": "object", "properties": {"colour": _ARGUMENT}, "required": ["colour"]}
_FUNCTION = {"name": _TOOL, "description": "Finds a boat.", "parameters": _ARGUMENTS}
_PROBE_TOOLS = [{"type": "function", "function": _FUNCTION}]


@dataclass(frozen=True)
class Rendered:
    """A prompt and its answer as text.

    Attributes:
        text: prompt, answer, and the text that the template writes after it.
        start: position where the answer, and thus a generation, starts.
        end: position where the last text of the answer ends.
        answer: own texts of the answer, in the order of the message.
        notes: notes on parts that the template left out or changed (see [`notes`]).
    """

    text: str
    start: int
    end: int
    answer: tuple[str, ...]
    notes: frozenset[str]


@dataclass(frozen=True)
class Traced:
    """A conversation as text, with the position of each message.

    Attributes:
        text: whole conversation, and the text that the template writes after it.
        spans: position of each message's text.
    """

    text: str
    spans: list[Span]


class ConversationRenderer:
    """Renders conversations with a tokenizer's chat template.

    Args:
        tokenizer: tokenizer with the chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._kinds: OrderedDict[str, Kind | str] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kinds": OrderedDict()}

    def render(self, prompt: list[Message], response: Message, options: Options) -> Rendered:
        """Render a prompt and its answer.

        Args:
            prompt: messages before the answer.
            response: the assistant's message.
            options: `tools` and other arguments of the template.

        Raises:
            TemplateError: if the template fails, or leaves out or changes anything other than leading and trailing white
                space and the thinking of earlier answers; or if no generation could start where the answer does.
            DataError: if the tokenizer has no chat template, or a message has content other than text.
        """
        messages = [*prompt, response]
        kind, text, slots = self._written(messages, options)
        matched = match(text, kind, slots) if kind.is_matchable else None
        if matched is None:
            return self._render_by_itself(messages, text, kind, {**options, **kind.options})
        start, spans = matched
        found = kind.notes | {notes.SPACE} if any(span.is_stripped for span in spans) else kind.notes
        return Rendered(text, start, spans[kind.end].stop, _own_answer(slots), found)

    def trace(self, messages: list[Message], options: Options) -> Traced | None:
        """Render a conversation and find the text of each message in it.

        Args:
            messages: messages with a single text each, the last of which is an answer.
            options: `tools` and other arguments of the template.

        Returns:
            The rendered conversation; None if the texts or the tools affect what the template writes around them, or if it
            does not write each text exactly once.

        Raises:
            TemplateError, DataError: as in [`render`].
        """
        kind, text, slots = self._written(messages, options)
        matched = match(text, kind, slots) if kind.is_matchable else None
        if matched is None or [span.slot for span in matched[1]] != list(range(len(messages))):
            return None
        return Traced(text, matched[1])

    def own_texts(
        self, prompt: list[Message], response: Message, options: Options
    ) -> tuple[str, list[tuple[int, int]]]:
        """Render a prompt and its answer, and find the conversation's own texts in the result.

        Args:
            prompt, response, options: as in [`render`].

        Returns:
            The text, and the start and end positions of the conversation's own texts in it, in order. The rest was written
            by the template.

        Raises:
            TemplateError, DataError: as in [`render`].
        """
        messages = [*prompt, response]
        kind, text, slots = self._written(messages, options)
        matched = match(text, kind, slots) if kind.is_matchable else None
        if matched is not None:
            return text, [(span.start, span.stop) for span in matched[1]]
        split = self._split(messages, kind.form, {**options, **kind.options}, markers.inside)

        def unmarked(place: int) -> int:
            return len(markers.without_markers(split.text[:place]))

        return text, [(unmarked(one.start), unmarked(one.stop)) for one in split.found]

    def apply(self, messages: list[Message], options: Options, *, generate: bool = False) -> str:
        """Apply the template to messages without any checks.

        Raises:
            TemplateError: if the template fails.
            DataError: if there is no template.
        """
        if self.tokenizer.chat_template is None:
            raise DataError(
                "The data is conversational, but the tokenizer has no chat template. Set `tokenizer.chat_template`, use "
                "the tokenizer of a chat model, or give plain `prompt` and `completion` text."
            )
        apply = self.tokenizer.apply_chat_template
        try:
            return str(apply(messages, tokenize=False, add_generation_prompt=generate, **options))
        except Exception as error:  # a template is a program and may raise anything
            badness = 2 if type(error) is JinjaError else 1000  # raised deliberately by the template, or a bug
            raise FormError(f"The chat template fails on this conversation: {error}", badness) from error

    def _written(self, messages: list[Message], options: Options) -> tuple[Kind, str, list[Slot]]:
        """Return a conversation's kind, the text rendered by the template, and its slots."""
        kind = self._kind_of(messages, options)
        marked, slots = markers.written_with_markers(messages, kind.form, markers.own)
        return kind, self.apply(marked, {**options, **kind.options}), slots

    # ---- kinds --------------------------------------------------------------------------------------------------------

    def _kind_of(self, messages: list[Message], options: Options) -> Kind:
        marked, _ = markers.written_with_markers(messages, ConversationForm(), markers.probe)
        rest = {name: value for name, value in options.items() if name != "tools"}
        name = json.dumps([marked, rest, bool(options.get("tools"))], default=str, sort_keys=True)
        if name in self._kinds:
            self._kinds.move_to_end(name)
        else:
            try:
                self._kinds[name] = self._prove(messages, options)
            except TemplateError as error:
                self._kinds[name] = str(error)
            if len(self._kinds) > REMEMBERED_KINDS:
                self._kinds.popitem(last=False)
        kind = self._kinds[name]
        if isinstance(kind, str):
            raise TemplateError(kind)
        return kind

    def _prove(self, messages: list[Message], options: Options) -> Kind:
        """Find the first form of a conversation that the template writes completely."""
        tools = {"tools": _PROBE_TOOLS if options.get("tools") else None}
        refusals: list[FormError] = []
        for form in markers.forms(messages):
            try:
                split, more = self._split_with_or_without_thinking(messages, form, {**options, **tools})
            except FormError as refusal:
                refusals.append(refusal)
                continue
            has_tools = tools["tools"] is not None and _TOOL in split.text
            unused = self._unused_fields(messages, form, {**options, **tools, **more}, split.text)
            found = split.notes.union(notes.FIELD + name for name in unused)
            found |= {notes.TOOLS} if tools["tools"] is not None and not has_tools else set()
            found |= {notes.NO_THINKING} if more else set()
            return Kind(form, more, *segments_of(split), found, not has_tools)
        worst = min(refusals, key=lambda refusal: refusal.badness)
        raise TemplateError(str(worst) + self._where_it_fails(messages, options, worst))

    def _unused_fields(
        self, messages: list[Message], form: ConversationForm, options: Options, text: str
    ) -> list[str]:
        """Return fields of messages that do not affect the rendering of a conversation of markers."""
        names = {
            name
            for message in messages
            for name, value in message.items()
            if name not in _FIELDS and value not in ("", [], {}) and (name != "name" or not is_result(message))
        }
        marked, _ = markers.written_with_markers(messages, form, markers.probe)

        def is_unused(fields: Collection[str]) -> bool:
            without = [{name: value for name, value in one.items() if name not in fields} for one in marked]
            with contextlib.suppress(TemplateError):
                return self.apply(without, options) == text
            return False

        return sorted(names if not names or is_unused(names) else filter(lambda name: is_unused([name]), names))

    def _where_it_fails(self, messages: list[Message], options: Options, refusal: FormError) -> str:
        """Return a note on the first message on which the template fails; empty if it is unknown."""
        if "fails on this conversation" not in str(refusal):
            return ""
        for number in range(len(messages)):
            try:
                marked, _ = markers.written_with_markers(messages[: number + 1], ConversationForm(), markers.probe)
                self.apply(marked, options)
            except TemplateError:
                return f" (from message {number} on, role {messages[number].get('role')!r})"
        return ""

    def _split_with_or_without_thinking(
        self, messages: list[Message], form: ConversationForm, options: Options
    ) -> tuple[Split, dict[str, Any]]:
        """Split a conversation of markers; also return `enable_thinking: false` if only that lets answers start there."""
        split = self._split(messages, form, options, markers.probe)
        if notes.RECORDED_START not in split.notes or options.get("enable_thinking") is False:
            return split, {}
        more = {"enable_thinking": False}
        without = split
        with contextlib.suppress(TemplateError):
            without = self._split(messages, form, {**options, **more}, markers.probe)
        if notes.RECORDED_START in without.notes:
            return split, {}
        if options.get("enable_thinking"):
            opened = "The chat template opens a thinking block where a generation starts, but this answer has none"
            advice = "Set `chat_template_kwargs: {enable_thinking: false}`, which makes this template work"
            raise FormError(f"{opened}. {advice}.", 0.5)
        return without, more

    # ---- one conversation ---------------------------------------------------------------------------------------------

    def _split(self, messages: list[Message], form: ConversationForm, options: Options, mark: Mark) -> Split:
        """Render a marked conversation, and find where its answer starts.

        Raises:
            FormError: if something is missing, or a generation could not start there.
        """
        marked, slots = markers.written_with_markers(messages, form, mark)
        text = self.apply(marked, options)
        found = markers.find_markers(text, slots) if mark is markers.probe else markers.find_inside(text, slots)
        expected = [slot for slot in slots if mark is markers.probe or slot.holds == TEXT]
        noticed = check(text, found, expected, messages)
        last = len(messages) - 1
        answer = [one for one in found if slots[one.number].message == last]
        if not answer:
            raise FormError(f"The chat template leaves out the answer (message {last}).", 1)
        before = self.apply(marked[:-1], options, generate=True)
        first = min(answer, key=lambda one: one.start)
        head: str | None = text[: first.start]
        # Text that the row itself puts before its content (a `<think>` block, a call) is not part of the head.
        is_first = str(messages[-1].get("content")).startswith(str(slots[first.number].value))
        if {slots[one.number].field for one in answer} != {CONTENT} or not is_first:
            head = self._head(marked, form, options)
        is_behind_result = bool(messages[:-1]) and is_result(messages[-2])
        start, is_recorded = start_of_answer(text, before, head, is_behind_result=is_behind_result)
        if is_recorded:
            noticed.add(notes.RECORDED_START)
        if start > first.start or any(one.stop > start for one in found if slots[one.number].message != last):
            raise FormError("The chat template writes parts of the prompt after the answer.", 1)
        return Split(text, found, slots, start, frozenset(noticed))

    def _head(self, marked: list[Message], form: ConversationForm, options: Options) -> str | None:
        """Return the text before a plain-text answer; None if the template can't render one."""
        content: Any = markers.plain_marker(_ANSWER)
        if form.content == "parts" or (form.content == "own" and isinstance(marked[-1].get("content"), list)):
            content = [{"type": "text", "text": content}]
        with contextlib.suppress(TemplateError):
            text = self.apply([*marked[:-1], {"role": marked[-1]["role"], "content": content}], options)
            head, marker, _ = text.partition(markers.plain_marker(_ANSWER))
            return head if marker else None
        return None

    def _render_by_itself(self, messages: list[Message], text: str, kind: Kind, options: Options) -> Rendered:
        """Render a row whose texts or tools affect what the template writes around them."""
        split = self._split(messages, kind.form, options, markers.inside)
        if markers.without_markers(split.text) != text:
            raise TemplateError(
                "The chat template renders this conversation differently as soon as a word changes, so it can't be verified."
            )
        start, end = (len(markers.without_markers(split.text[:place])) for place in (split.start, split.end))
        found = split.notes | (kind.notes - {notes.EARLIER_THINKING})
        return Rendered(text, start, end, _own_answer(split.slots), found)


def _own_answer(slots: Sequence[Slot]) -> tuple[str, ...]:
    last = slots[-1].message
    return tuple(slot.value for slot in slots if slot.message == last and slot.holds == TEXT)
