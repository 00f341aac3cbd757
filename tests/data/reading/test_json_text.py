"""JSON values inside text are recognised, or refused with a way out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from messages import refused
from spin_trl.data.reading.json_text import (
    advice_on,
    are_messages,
    are_objects,
    holds_messages,
    holds_printed_messages,
    loaded,
    messages_of,
    value_in,
)
from spin_trl.errors import DataError

MESSAGES = [{"role": "user", "content": "It's 3 o'clock"}, {"role": "assistant", "content": None}]
SHAREGPT = [{"from": "human", "value": "Hi"}]
PRINTED_BY_NUMPY = "[{'content': 'Hi', 'role': 'user'}\n {'content': 'Hello', 'role': 'assistant'}]"


def test_a_key_that_stands_twice_is_refused_at_any_depth() -> None:
    """Otherwise one of its two values would be lost."""
    with refused(ValueError, "'a'"):
        loaded('{"b": [{"a": 1, "c": 2, "a": 3}]}')
    assert loaded(b'{"b": [{"a": 1}], "a": null}') == {"b": [{"a": 1}], "a": None}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('[{"type": "function"}]', [{"type": "function"}]),
        ("null", None),
        (" \n", "nothing"),
        ("", "nothing"),
        (None, None),
        ([1], [1]),
        ({"a": 1}, {"a": 1}),
    ],
)
def test_a_text_of_a_row_is_read_and_anything_else_is_as_it_is(value: Any, expected: Any) -> None:
    assert value_in(value, "the tools are", blank="nothing") == expected


def test_a_text_that_is_no_json_is_shown_up_to_its_sixtieth_character() -> None:
    with refused(DataError, "the tools", "JSON") as error:
        value_in("[" + "x" * 100, "the tools are")
    assert "x" * 59 in str(error.value)
    assert "x" * 60 not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "{}", '["a"]', '[{"role": "user"}, 1]', "3", '"[]"', "["])
def test_messages_are_a_list_of_objects_with_at_least_one(text: str) -> None:
    with pytest.raises(ValueError):
        messages_of(text)
    assert messages_of(json.dumps(MESSAGES)) == MESSAGES


@pytest.mark.parametrize(
    ("text", "in_json", "as_printed"),
    [
        (json.dumps(MESSAGES), True, False),
        (f"\n {json.dumps(SHAREGPT)}", True, False),
        (repr(MESSAGES), False, True),
        (repr(SHAREGPT), False, True),
        (PRINTED_BY_NUMPY, False, True),
        ('[{"text": "Hi"}]', False, False),
        ('[{"role": "user"}, {"text": "Hi"}]', False, False),
        ("[{'text': 'Hi'}]", False, False),
        ("[{'text': 'Hi'} {'text': 'Ho'}]", False, False),
        ("[1, 2]", False, False),
        ("[sic] he said", False, False),
        ("Dear [{name}], 'role': none", False, False),
        ("", False, False),
        ("[" * 100_000, False, False),
        ("[{" * 5_000, False, False),
    ],
)
def test_a_conversation_is_told_from_a_text_about_one(text: str, in_json: bool, as_printed: bool) -> None:
    """Text that merely resembles a conversation stays text."""
    assert holds_messages(text) is in_json
    if not in_json:  # a list of objects without true, false and null is written the same way in Python and JSON
        assert holds_printed_messages(text) is as_printed


def test_every_object_must_say_who_speaks() -> None:
    assert are_messages(MESSAGES + SHAREGPT)
    assert not are_messages([*MESSAGES, {"content": "Hi"}])
    assert not are_messages([])
    assert are_objects([{}])
    assert not are_objects(({"role": "user"},))


@pytest.mark.parametrize(
    ("text", "is_known"), [(repr(MESSAGES), True), ("{'a': 1}", True), ('{"a": 1', False), ("x", False)]
)
def test_what_python_prints_has_a_way_out(text: str, is_known: bool) -> None:
    assert ("`json.dumps`" in advice_on(text)) is is_known
