"""A row's rendered conversation is compared with its kind, character by character."""

from __future__ import annotations

from typing import Any

import pytest

from spin_trl.data.template.kinds import Kind, Span, Split, match, segments_of
from spin_trl.data.template.markers import (
    CALL,
    CONTENT,
    NAME,
    NUMBER,
    TEXT,
    ConversationForm,
    Found,
    Slot,
    find_markers,
    probe,
)

QUESTION = Slot(0, 0, "user", CONTENT, TEXT, " What? ")
ANSWER = Slot(1, 1, "assistant", CONTENT, TEXT, "That.")


def split(text: str, slots: list[Slot], start: int) -> Split:
    return Split(text, find_markers(text, slots), slots, start, frozenset())


def kind(segments: list[Any], end: int = 1) -> Kind:
    return Kind(ConversationForm(), {}, segments, end, frozenset(), True)


SEGMENTS: list[Any] = ["<u>", (0, "as it is"), "</u>", "<a>", None, (1, "as it is"), "</a>"]


def test_a_rendered_conversation_falls_apart_into_template_and_texts() -> None:
    """The position where the answer starts lies between them, also within the template's own text."""
    before = f"<u>{probe(QUESTION)}</u><a>"
    found, end = segments_of(split(f"{before}{probe(ANSWER)}</a>", [QUESTION, ANSWER], len(before)))
    assert found == ["<u>", (0, "as it is"), "</u><a>", None, (1, "as it is"), "</a>"]
    assert end == 1
    earlier, _ = segments_of(split(f"{before}{probe(ANSWER)}</a>", [QUESTION, ANSWER], len(before) - 3))
    assert earlier == ["<u>", (0, "as it is"), "</u>", None, "<a>", (1, "as it is"), "</a>"]


def test_the_answer_ends_with_its_last_text_wherever_that_stands() -> None:
    """In a tool call with two texts, the answer ends after whichever is rendered last, not after the one found last."""
    call = Slot(2, 1, "assistant", CALL, NAME, "price")
    text = f"<u>{probe(QUESTION)}</u>{probe(call)}({probe(ANSWER)})</a>{probe(QUESTION)}"
    found = split(text, [QUESTION, ANSWER, call], 0)
    assert segments_of(found)[1] == 2
    assert text[: found.end].endswith(str(probe(ANSWER)))


def test_a_row_is_found_in_its_kind_with_the_place_of_each_text() -> None:
    text = "<u> What? </u><a>That.</a>"
    assert match(text, kind(SEGMENTS), [QUESTION, ANSWER]) == (
        text.index("That"),
        [Span(0, 3, 10, False), Span(1, 17, 22, False)],
    )


@pytest.mark.parametrize("written", ["What?", " What?", "What? "])
def test_white_space_that_the_template_strips_is_noticed(written: str) -> None:
    found = match(f"<u>{written}</u><a>That.</a>", kind(SEGMENTS), [QUESTION, ANSWER])
    assert found is not None
    assert found[1][0] == Span(0, 3, 3 + len(written), True)


@pytest.mark.parametrize(
    "text",
    [
        "<u> What? </u><a>That</a>",  # a character is missing
        "<u> what? </u><a>That.</a>",
        "<u> What? </u><a>That.</a>\n",  # one more at the end
        "<u> What? </u><a>That.",
        "<u> What? </u><b>That.</a>",
        "<u>  What? </u><a>That.</a>",
        "",
    ],
)
def test_a_row_that_reads_otherwise_is_none_of_the_kind(text: str) -> None:
    assert match(text, kind(SEGMENTS), [QUESTION, ANSWER]) is None


def test_a_text_is_taken_as_long_as_the_template_goes_on_behind_it() -> None:
    """Both `x ` and `x` fit `x </a>`; the text that follows decides which one it is."""
    slot = Slot(0, 0, "assistant", CONTENT, TEXT, "x ")
    kept, stripped = kind([None, (0, "as it is"), "</a>"], 0), kind([None, (0, "as it is"), " </a>"], 0)
    assert match("x </a>", kept, [slot]) == (0, [Span(0, 0, 2, False)])
    assert match("x </a>", stripped, [slot]) == (0, [Span(0, 0, 1, True)])


@pytest.mark.parametrize(
    ("escape", "written"),
    [
        ("as it is", "a'\n\\é"),
        ("JSON", "a'\\n\\\\é"),
        ("ASCII JSON", "a'\\n\\\\\\u00e9"),
        ("Python", "a\\'\\n\\\\é"),
    ],
)
def test_a_text_is_looked_for_as_the_kind_writes_it(escape: str, written: str) -> None:
    slot = Slot(0, 0, "tool", CONTENT, TEXT, "a'\n\\é")
    found = match(f"{written}.", kind([None, (0, escape), "."], 0), [slot])
    assert found == (0, [Span(0, 0, len(written), False)])


def test_a_number_stands_there_as_json_has_it() -> None:
    slot = Slot(0, 0, "assistant", CALL, NUMBER, 0.5)
    assert match("0.5;", kind([None, (0, "as it is"), ";"], 0), [slot]) == (0, [Span(0, 0, 3, False)])
    assert match(".5;", kind([None, (0, "as it is"), ";"], 0), [slot]) is None


def test_a_marker_that_is_written_in_no_known_way_is_taken_as_it_is() -> None:
    found = Split("Qz00000zQ", [Found(0, 0, 9, None)], [QUESTION], 0, frozenset())
    assert segments_of(found) == (["", None, (0, "as it is"), ""], 0)
