"""Markers stand for the texts of a conversation, and are found however a template writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from messages import refused
from spin_trl.data.template.markers import (
    CALL,
    CONTENT,
    ESCAPES,
    NAME,
    NUMBER,
    OTHER,
    TEXT,
    THINKING,
    ConversationForm,
    find_inside,
    find_markers,
    forms,
    inside,
    own,
    plain_marker,
    probe,
    stripped,
    without_markers,
    written_with_markers,
)
from spin_trl.errors import DataError

CALLED = {
    "type": "function",
    "id": "c1",
    "function": {"name": "price", "arguments": {"id": 3, "shop": "x", "of": None}},
}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "What does it cost?"},
    {"role": "assistant", "content": None, "reasoning_content": "I ask.", "tool_calls": [CALLED]},
    {"role": "tool", "content": "7", "tool_call_id": "c1", "name": "price"},
    {"role": "assistant", "content": "<think>\nSeven.\n</think>\n\nIt costs 7."},
]
SLOTS = [  # message, field, content, the row's own content, whether it must be written
    (0, CONTENT, TEXT, "What does it cost?", True),
    (1, THINKING, TEXT, "I ask.", True),
    (1, OTHER, NAME, "c1", False),
    (1, CALL, NAME, "price", True),
    (1, CALL, NAME, "id", True),
    (1, CALL, NUMBER, 3, True),
    (1, CALL, NAME, "shop", True),
    (1, CALL, TEXT, "x", True),
    (1, CALL, NAME, "of", True),
    (2, CONTENT, TEXT, "7", True),
    (2, OTHER, NAME, "price", False),
    (3, THINKING, TEXT, "Seven.", True),
    (3, CONTENT, TEXT, "It costs 7.", True),
]


def test_every_text_of_a_conversation_is_a_slot() -> None:
    """These include names and values of tool arguments, and thinking inside an answer; `type`, roles and nulls are not
    slots.
    """
    _, slots = written_with_markers(CONVERSATION, ConversationForm(), own)
    assert [(slot.message, slot.field, slot.holds, slot.value, slot.is_required) for slot in slots] == SLOTS
    assert [slot.value for slot in slots if slot.is_key] == ["id", "shop", "of"]
    assert [slot.number for slot in slots] == list(range(len(SLOTS)))


def test_a_conversation_is_written_as_it_is() -> None:
    assert written_with_markers(CONVERSATION, ConversationForm(), own)[0] == CONVERSATION


def test_an_id_has_the_same_marker_wherever_it_stands() -> None:
    """A tool result refers to its call by the id."""
    marked, _ = written_with_markers(CONVERSATION, ConversationForm(), probe)
    assert marked[1]["tool_calls"][0]["id"] == marked[2]["tool_call_id"] == "Qz00002zQ"


def test_markers_are_what_they_stand_for() -> None:
    """A name gets nine letters and digits, a number gets a number, with its decimal point; white space gets no marker."""
    turn = {"role": "assistant", "content": " \n", "tool_calls": [{"name": "f", "arguments": {"a": 1.5, "b": True}}]}
    marked, slots = written_with_markers([turn], ConversationForm(), probe)
    assert len(plain_marker(0)) == len(marked[0]["tool_calls"][0]["name"]) == 9
    assert marked[0]["tool_calls"][0]["arguments"] == {"Qz00001zQ": 9_100_000_002.5, "Qz00003zQ": True}
    assert marked[0]["content"] == " \n"
    assert [slot.value for slot in slots] == ["f", "a", 1.5, "b"]


@pytest.mark.parametrize(
    ("write", "escape"),
    [
        (str, "as it is"),
        (lambda text: json.dumps(text, ensure_ascii=False), "JSON"),
        (json.dumps, "ASCII JSON"),
        (lambda text: repr(text + "'\""), "Python"),
        (str.upper, "missing"),
        (lambda text: text.replace("\n", " "), None),
    ],
    ids=["plain", "JSON", "ASCII", "repr", "upper", "one line"],
)
def test_a_marker_is_found_however_it_is_written(write: Any, escape: str | None) -> None:
    """It may also be found changed (None), or not at all. Its position is that of the whole text."""
    (message,), slots = written_with_markers([CONVERSATION[0]], ConversationForm(), probe)
    rendered = f"<{write(message['content'])}>"
    found = find_markers(rendered, slots)
    if escape == "missing":
        assert found == []
        return
    assert [(one.number, one.escape) for one in found] == [(0, escape)]
    if escape is not None:
        whole = ESCAPES[escape](message["content"])
        assert rendered[found[0].start : found[0].stop] == whole


def test_markers_are_found_in_the_order_in_which_they_are_written() -> None:
    """Repeated markers, including numbers, are found each time; those of another conversation are ignored."""
    _, slots = written_with_markers(CONVERSATION, ConversationForm(), probe)
    rendered = f"{probe(slots[5])} Qz00099zQ {probe(slots[3])} {probe(slots[5])}"
    assert [one.number for one in find_markers(rendered, slots)] == [5, 3, 5]


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (str, "as it is"),
        (str.strip, "as it is"),
        (json.dumps, "ASCII JSON"),
        (lambda text: text.replace("Which", "which"), None),
        (lambda text: text.replace("?", ""), None),
    ],
    ids=["plain", "stripped", "JSON", "another letter", "one less"],
)
def test_a_text_around_its_marker_is_all_there_or_not(write: Any, found: str | None) -> None:
    """Only white space at its ends may be missing."""
    text = ' Which boat — "é"?\n'
    (message,), slots = written_with_markers([{"role": "user", "content": text}], ConversationForm(), inside)
    assert [one.escape for one in find_inside(f"[{write(message['content'])}]", slots)] == [found]
    assert without_markers(message["content"]) == text


@pytest.mark.parametrize(
    ("text", "side", "expected"),
    [
        ("a", "both", {"a"}),
        (" a\n", "both", {" a\n", "a", " a", "a\n"}),
        (" a\n", "left", {" a\n", "a\n"}),
        (" a\n", "right", {" a\n", " a"}),
        ("\n a", "both", {"\n a", "a", " a"}),
    ],
)
def test_what_may_be_left_of_a_stripped_text(text: str, side: str, expected: set[str]) -> None:
    """The unchanged text comes first."""
    assert set(stripped(text, side)) == expected
    assert stripped(text, side)[0] == text


def test_forms_are_those_that_make_a_difference() -> None:
    """The conversation's own form comes first; forms with arguments exist only if there are calls, forms with empty
    content only next to calls.
    """
    text, parts = {"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "a"}]}
    assert list(forms([text])) == [ConversationForm("own"), ConversationForm("parts")]
    assert list(forms([parts])) == [ConversationForm("own"), ConversationForm("text")]
    assert list(forms([text, parts])) == [ConversationForm("own"), ConversationForm("text"), ConversationForm("parts")]
    calls = list(forms(CONVERSATION))
    assert calls[0] == ConversationForm()
    assert len(calls) == len(set(calls)) == 2 * 2 * 3


def test_a_form_changes_how_a_conversation_is_written() -> None:
    """A form does not change the content."""
    first, call, _, last = written_with_markers(CONVERSATION, ConversationForm("parts", "string", "text"), own)[0]
    assert first["content"] == [{"type": "text", "text": "What does it cost?"}]
    assert last["content"] == [{"type": "text", "text": "<think>\nSeven.\n</think>\n\nIt costs 7."}]
    assert call["content"] == ""
    assert call["tool_calls"][0]["function"]["arguments"] == '{"id": 3, "shop": "x", "of": null}'
    parts = [{"role": "user", "content": ["a", {"type": "text", "text": "b"}]}]
    assert written_with_markers(parts, ConversationForm("text"), own)[0] == [{"role": "user", "content": "ab"}]
    assert written_with_markers(CONVERSATION, ConversationForm(empty="none"), own)[0][1]["content"] is None


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}, 7])
def test_a_part_that_is_no_text_is_refused(part: Any) -> None:
    """The message names the message and the kind of the part."""
    kind = part["type"] if isinstance(part, dict) else "int"
    with refused(DataError, "message 0", "role 'user'", repr(kind)):
        written_with_markers([{"role": "user", "content": [part]}], ConversationForm(), own)
