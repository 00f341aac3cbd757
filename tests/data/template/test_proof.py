"""Checks whether a template has rendered all of a conversation in order, and where the answer starts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from messages import names, refused
from spin_trl.data import notes
from spin_trl.data.template.markers import ConversationForm as Form
from spin_trl.data.template.markers import Message, find_markers, own, probe, written_with_markers
from spin_trl.data.template.proof import FormError, check, is_result, size_alike, start_of_answer

CHAT: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What?"},
    {"role": "assistant", "content": "That."},
]


def noticed(rendered: str, messages: list[Message]) -> set[str]:
    """Return what is noticed if a conversation is rendered this way; `{0}` stands for the first text, written as a
    marker.
    """
    _, slots = written_with_markers(messages, Form(), own)
    text = rendered.format(*map(probe, slots))
    return check(text, find_markers(text, slots), slots, messages)


def test_a_template_that_writes_all_of_it_in_order_passes() -> None:
    assert noticed("<s>{0}<u>{1}<a>{2}</a>", CHAT) == set()


def test_the_systems_message_may_stand_anywhere() -> None:
    """Templates that put it before the last message also do so at inference."""
    assert noticed("<u>{1}<s>{0}<a>{2}</a>", CHAT) == set()


@pytest.mark.parametrize(
    ("rendered", "parts"),
    [
        ("<u>{1}<a>{2}</a>", ("leaves out", "message 0", "'system'")),
        ("<s>{0}<u>{1}<a></a>", ("leaves out", "message 2", "'assistant', the answer")),
        ("<s>{0}<u>{1}<a>{2}{2}</a>", ("more than once", "message 2")),
        ("<s>{0}<a>{2}</a><u>{1}", ("another order",)),
        ("<s>{0}<u>{1!r}<a>{2}</a>", ("changes", "message 1", "'user'")),
    ],
)
def test_what_a_template_does_to_a_text_is_named(rendered: str, parts: tuple[str, ...]) -> None:
    with refused(FormError, *parts):
        noticed(rendered, CHAT)


def test_a_form_is_as_bad_as_it_has_problems() -> None:
    """The number of problems decides which of several forms is reported."""
    with refused(FormError, "message 0") as error:
        noticed("<a></a>", CHAT)
    assert error.value.badness == 3


def test_a_prompt_may_be_repeated() -> None:
    assert noticed("<s>{0}<u>{1}{1}<a>{2}</a>", CHAT) == set()


CALLED: list[Message] = [
    {"role": "user", "content": "What?"},
    {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {"at": "x"}}}]},
    {"role": "tool", "content": "7"},
    {"role": "assistant", "content": "Seven."},
]  # slots: question, name, key, value, result, answer


def json_of(text: Any) -> str:
    return json.dumps(text)[1:-1]


@pytest.mark.parametrize(
    ("value", "result", "is_fine"),
    [
        ("own", "own", True),
        ("json", "json", True),
        ("python", "own", True),  # some models write tool calls in Python
        ("own", "python", False),  # but a result written in Python is not the result any more
    ],
)
def test_calls_and_results_may_be_json(value: str, result: str, is_fine: bool) -> None:
    ways = {"own": str, "json": json_of, "python": lambda text: repr(text)[1:-1]}
    _, slots = written_with_markers(CALLED, Form(), own)
    question, name, key, argument, found, answer = map(probe, slots)
    text = f'<u>{question}<a>{name}("{key}"={ways[value](argument)})<t>{ways[result](found)}<a>{answer}'
    if is_fine:
        assert check(text, find_markers(text, slots), slots, CALLED) == set()
    else:
        with refused(FormError, "message 2", "'tool'"):
            check(text, find_markers(text, slots), slots, CALLED)


def test_arguments_as_python_prints_a_dict_are_refused() -> None:
    with refused(FormError, "tool call"):
        noticed("<u>{0}<a>{1}({{'{2}': '{3}'}})<t>{4}<a>{5}", CALLED)


def test_a_result_may_stand_within_the_turn_that_asks_for_it() -> None:
    """Tools answer within that turn, before or after its text."""
    assert noticed("<u>{0}<a><t>{4}</t>{1}({2}={3})</a><a>{5}", CALLED) == set()
    assert [is_result({"role": role}) for role in ("tool", "ipython", "function", "assistant")] == [
        True,
        True,
        True,
        False,
    ]


def test_earlier_thinking_may_be_left_out_and_the_answers_may_not() -> None:
    thinking: list[Message] = [
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "That.", "reasoning_content": "Hm."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "This.", "reasoning_content": "So."},
    ]
    _, slots = written_with_markers(thinking, Form(), own)
    order = {slot.value: slot.number for slot in slots}
    all_but = "".join(f"{{{order[text]}}}" for text in ("What?", "That.", "And?", "So.", "This."))
    assert noticed(all_but, thinking) == {notes.EARLIER_THINKING}
    with refused(FormError, "thinking", "message 3"):
        noticed(all_but.replace(f"{{{order['So.']}}}", ""), thinking)


@pytest.mark.parametrize(
    ("text", "before", "head", "is_behind_result", "expected"),
    [
        # The answer starts where a generation does.
        ("<u>Q<a>A</a>", "<u>Q<a>", "<u>Q<a>", False, ("<u>Q<a>", False)),
        ("<u>Q<a>A</a>", "<u>Q<a>", None, False, ("<u>Q<a>", False)),
        # An empty thinking block before every answer belongs to the prompt; a space does not.
        ("<u>Q<a><think></think>A", "<u>Q<a>", "<u>Q<a><think></think>", False, ("<u>Q<a><think></think>", False)),
        ("<u>Q<a> A", "<u>Q<a>", "<u>Q<a> ", False, ("<u>Q<a>", False)),
        # A generation is about to think, and a recorded answer has thought: they differ in the template's own text
        # alone.
        ("<u>Q<a>A", "<u>Q<a><think>\n", "<u>Q<a>", False, ("<u>Q<a>", True)),
        # After a tool result, a template may close a turn for a generation but continue it for a recorded answer.
        ("<t>7A", "<t>7<end><model>", "<t>7", True, ("<t>7", True)),
    ],
)
def test_where_an_answer_starts(
    text: str, before: str, head: str | None, is_behind_result: bool, expected: tuple[str, bool]
) -> None:
    place, only_recorded = start_of_answer(text, before, head, is_behind_result=is_behind_result)
    assert (text[:place], only_recorded) == expected


@pytest.mark.parametrize(
    ("text", "before", "head"),
    [
        ("<u>Q<b>A", "<u>Q<a>", "<u>Q<b>"),
        ("<t>7A", "<t>7<end><model>", "<t>7"),  # not after a result
        ("<u>Q<b>A", "<u>Q<a>", None),
    ],
)
def test_a_generation_that_starts_otherwise_refuses_the_template(text: str, before: str, head: str | None) -> None:
    with refused(FormError) as error:
        start_of_answer(text, before, head, is_behind_result=False)
    begun = "<end><model>" if "<end>" in before else "<a>"
    assert names(str(error.value), repr(begun))


@pytest.mark.parametrize(
    ("one", "other", "expected"), [("abc", "abd", 2), ("ab", "abc", 2), ("", "a", 0), ("ab", "ab", 2), ("b", "a", 0)]
)
def test_where_two_texts_part(one: str, other: str, expected: int) -> None:
    assert size_alike(one, other) == expected
