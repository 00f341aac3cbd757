"""Columns of a user's dataset are guessed first by name, then by content, or not at all."""

import json
from typing import Any

import pytest
from datasets import Dataset

from spin_trl.data import mapping
from spin_trl.data.columns import UNREADABLE
from spin_trl.data.mapping import ColumnGuess, guess_columns

CHAT = [{"role": "user", "content": "Which boat?"}, {"role": "assistant", "content": "The red one."}]
ANSWER = [{"role": "assistant", "content": "The red one."}]


def guess(row: dict[str, Any], rows: int = 8) -> ColumnGuess | None:
    """Return the guess for rows like this one, in which `{n}` stands for the row's number."""
    columns = {name: [_numbered(value, number) for number in range(rows)] for name, value in row.items()}
    return guess_columns(Dataset.from_dict(columns))


def _numbered(value: Any, number: int) -> Any:
    return value.replace("{n}", str(number)) if isinstance(value, str) else value


@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT},
        {"prompt": "a", "completion": "b"},
        {"instruction": "a", "output": "b", "question": "which {n}", "answer": "that {n}"},
    ],
    ids=["messages", "prompt-and-completion", "alpaca"],
)
def test_columns_that_a_run_reads_need_no_mapping(row: dict[str, Any]) -> None:
    """Other columns do not matter."""
    assert guess(row) == ColumnGuess()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "a", "answer": "b"}, {"question": "prompt", "answer": "completion"}),
        ({"prompt": "a", "response": "b"}, {"response": "completion"}),
        ({"Question": "a", "ANSWER": "b"}, {"Question": "prompt", "ANSWER": "completion"}),
        ({"dialog": CHAT}, {"dialog": "messages"}),
        ({"dialog": json.dumps(CHAT)}, {"dialog": "messages"}),
        ({"verlauf": CHAT}, {"verlauf": "messages"}),
        ({"question": CHAT[:1], "answer": CHAT[1:]}, {"question": "prompt", "answer": "completion"}),
    ],
    ids=["both", "one", "capitals", "conversation", "as-json", "conversation-by-value", "messages-in-two-columns"],
)
def test_names_say_what_columns_are(row: dict[str, Any], expected: dict[str, str]) -> None:
    """A guess by name is not marked as a guess by content."""
    assert guess(row) == ColumnGuess(expected)


def test_a_conversations_name_alone_does_not_make_it_one() -> None:
    assert guess({"chat": "a name", "question": "a", "answer": "b"}) == ColumnGuess(
        {"question": "prompt", "answer": "completion"}
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"frage": "which boat {n}", "antwort": "that one {n}"}, {"frage": "prompt", "antwort": "completion"}),
        ({"question": "which {n}", "antwort": "that {n}"}, {"question": "prompt", "antwort": "completion"}),
        ({"frage": "which {n}", "answer": "that {n}"}, {"frage": "prompt", "answer": "completion"}),
        ({"prompt": "which {n}", "antwort": "that {n}"}, {"antwort": "completion"}),
    ],
    ids=["neither-named", "prompt-named", "response-named", "prompt-as-read"],
)
def test_texts_are_looked_at_where_names_say_nothing(row: dict[str, Any], expected: dict[str, str]) -> None:
    """Columns are tried in order, ignoring names, labels, dates and numbers; the guess is marked as one by content."""
    others = {"nr": "{n}", "thema": "all about boats", "size": 3}
    assert guess({**others, **row}) == ColumnGuess(expected, is_by_content=True)


def test_two_columns_of_short_text_are_a_prompt_and_its_response() -> None:
    """Single words will do if there is no other text."""
    row = {"id": 3, "en": "boat", "de": "Boot"}
    assert guess(row) == ColumnGuess({"en": "prompt", "de": "completion"}, is_by_content=True)
    assert guess({**row, "fr": "bateau"}) is None


def test_lines_that_can_not_be_read_are_no_column() -> None:
    row = {"frage": "which boat {n}", "antwort": "that one {n}", UNREADABLE: "Line {n} is no JSON"}
    found = guess(row)
    assert found is not None
    assert UNREADABLE not in found.mapping
    assert guess({"antwort": "that one {n}", UNREADABLE: "Line {n} is no JSON"}) is None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, {"chosen": "completion"}),
        ({"prompt": "a", "chosen": ANSWER, "rejected": ANSWER}, {"chosen": "completion"}),
        ({"prompt": "a", "chosen": CHAT, "rejected": CHAT}, {"chosen": "messages"}),
        ({"chosen": CHAT, "rejected": CHAT}, {"chosen": "messages"}),
        ({"real": CHAT, "generated": CHAT}, {"real": "messages"}),
        ({"chosen": json.dumps(CHAT), "rejected": json.dumps(CHAT)}, {"chosen": "messages"}),
    ],
    ids=["text", "one-message", "whole-conversation", "without-prompt", "ucla", "as-json"],
)
def test_of_pairs_the_preferred_response_is_taken(row: dict[str, Any], expected: dict[str, str]) -> None:
    assert guess(row) == ColumnGuess(expected, of_pairs=True)


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": "a text", "rejected": "another text"},
        {"text": "a whole conversation {n}"},
        {"one": "a b {n}", "two": "c d {n}", "three": "e f {n}"},
        {"question": "which {n}", "answer": 3},
        {"question": "which {n}", "answers": ["that", "this"]},
        {"size": 3},
    ],
    ids=["pairs-without-a-prompt", "one-text", "three-texts", "number", "list-of-texts", "no-text"],
)
def test_nothing_is_guessed_where_nothing_speaks_for_a_way(row: dict[str, Any]) -> None:
    assert guess(row) is None


def test_a_dataset_without_rows_is_read_by_its_names() -> None:
    assert guess({"question": "a", "answer": "b"}, rows=0) == ColumnGuess(
        {"question": "prompt", "answer": "completion"}
    )


def test_rows_that_hold_nothing_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are ignored among the rows that are inspected."""
    rows = Dataset.from_list([{"dialog": None}, {"dialog": CHAT}])
    assert guess_columns(rows) == ColumnGuess({"dialog": "messages"})
    monkeypatch.setattr(mapping, "SEEN", 1)
    assert guess_columns(rows) is None
