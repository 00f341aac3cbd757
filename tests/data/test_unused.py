"""Columns that are there and not used are named once, with what they might be."""

import json
from typing import Any

import pytest
from datasets import Dataset

import tiny
from spin_trl.data.as_conversations import as_conversations
from spin_trl.data.columns import read_columns
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.data.unused import naming, not_sft, unused_columns
from spin_trl.errors import DataError

MESSAGES = {"messages": [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "A boat."}]}
TEXT = {"prompt": "Which?", "completion": " A boat."}
ALPACA = {"instruction": "Which?", "output": "A boat."}

UNUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": (MESSAGES, []),
    "metadata": ({**MESSAGES, "category": "boats", "source": "web"}, ["category", "source"]),
    "a prompt beside messages": ({**MESSAGES, "prompt": "Which?", "prompt_id": "7"}, ["prompt", "prompt_id"]),
    "messages beside a prompt": ({**TEXT, **MESSAGES}, ["messages"]),
    "system beside messages": ({**MESSAGES, "system": "Be brief."}, []),
    "system beside text": ({**TEXT, "system": "Be brief."}, ["system"]),
    "system beside Alpaca": ({**ALPACA, "system": "Be brief."}, []),
    "input beside text": ({**TEXT, "input": "Boats."}, ["input"]),
    "input beside Alpaca": ({**ALPACA, "input": "Boats."}, []),
    "history beside text": ({**TEXT, "history": [["a", "b"]]}, ["history"]),
    "history beside Alpaca": ({**ALPACA, "history": [["a", "b"]]}, []),
    "tools beside text": ({**TEXT, "tools": "[]"}, ["tools"]),
    "tools beside messages": ({**MESSAGES, "tools": "[]"}, []),
    "another format beside Alpaca": (
        {**ALPACA, "response": "No idea.", "text": "Which? A boat."},
        ["response", "text"],
    ),
}


@pytest.mark.parametrize("name", UNUSED)
def test_what_is_not_read_is_known(name: str) -> None:
    row, expected = UNUSED[name]
    rows = Dataset.from_list([row])
    assert unused_columns(rows) == expected
    assert set(read_columns(rows)) == set(row) - set(expected)
    assert (naming(rows, "train") is None) == (not expected)


def test_a_column_that_holds_nothing_is_not_named() -> None:
    rows = [
        {**MESSAGES, "system_prompt": None, "category": None},
        {**MESSAGES, "system_prompt": None, "category": "boats"},
    ]
    assert naming(Dataset.from_list(rows), "train") == "Columns of the train dataset that are not used: `category`."
    assert naming(Dataset.from_list(rows[:1]), "train") is None


def test_they_are_named_once_before_anything_else_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """With the dataset's name, and a hint where a column's own name is one."""
    rows = Dataset.from_list([{**TEXT, "category": "boats", "system": "Be brief.", "question_id": 1}])
    prepare(rows, PairTemplate(tiny.tokenizer()), name="held-out")
    assert caplog.messages == [
        "Columns of the held-out dataset that are not used: `system` (may be a system prompt: it is read with "
        "`as_conversations: true`, or as a turn of `messages`), `category`, `question_id`."
    ]
    caplog.clear()
    prepare(rows.select_columns(["prompt", "completion"]), PairTemplate(tiny.tokenizer()))
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("column", "value", "hint"),
    [
        ("input", "x", "may belong to the prompt: `column_mapping: {input: prompt_input}`"),
        ("context", "x", "may belong to the prompt: `column_mapping: {context: prompt_input}`"),
        ("system_prompt", "x", "may be a system prompt: it is read with `as_conversations: true`, mapped to `system`"),
        ("question", "x", "may be a prompt: `prompt` and `completion` are read"),
        ("answer", "x", "may be a response: `prompt` and `completion` are read"),
        ("history", [["a", "b"]], "may be earlier turns: they are read with `as_conversations: true`"),
        ("tools", "[]", "tools have no place in plain text"),
        ("text", "x", "may be a whole conversation as text"),
        ("score", 0.5, "may say how good a response is"),
        ("weight", 1, "may say whether a row is trained on"),
    ],
)
def test_a_column_whose_name_says_something_comes_with_a_hint(column: str, value: Any, hint: str) -> None:
    assert f"`{column}` ({hint}" in (naming(Dataset.from_list([{**TEXT, column: value}]), "train") or "")


def test_what_a_hint_proposes_is_read() -> None:
    """`system` and `history` with `as_conversations`, what belongs to the prompt as `prompt_input`."""
    rows = Dataset.from_list([{**TEXT, "system": "Be brief.", "history": [["a", "b"]], "prompt_input": "Boats."}])
    assert unused_columns(as_conversations(rows)) == []
    assert unused_columns(rows) == ["system", "history"]


@pytest.mark.parametrize(
    ("columns", "mapping"),
    [
        (["question", "answer"], "{question: prompt, answer: completion}"),
        (["Question", "Answer"], "{Question: prompt, Answer: completion}"),
        (["instruction", "context", "response"], "{instruction: prompt, response: completion}"),
        (["prompt", "chosen"], "{chosen: completion}"),
        (["a", "b"], "{question: prompt, answer: completion}"),
        (["query", "answers", "tools"], "{query: prompt, answers: completion}"),
        (["query", "b"], "{query: prompt}, and a column for `completion`"),
    ],
)
def test_a_dataset_that_is_none_gets_a_mapping_that_fits(columns: list[str], mapping: str) -> None:
    assert f"need a column mapping, like {mapping}." in not_sft(Dataset.from_dict({name: ["x"] for name in columns}))


def test_a_column_of_messages_gets_one_too() -> None:
    rows = Dataset.from_list([{"id": 1, "dialog": MESSAGES["messages"]}])
    assert not_sft(rows).endswith("need a column mapping, like {dialog: messages}.")


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["prompt", "b"], "There is `prompt`, and a column for `completion`"),
        (["prompt", " completion"], "The name ' completion' has white space around it: take that out."),
        (["system", "chat"], "`chat` is text; a conversation is read as a list of messages only."),
    ],
)
def test_no_mapping_is_proposed_that_would_not_help(columns: list[str], found: str) -> None:
    assert found in not_sft(Dataset.from_dict({name: ["x"] for name in columns}))


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (
            {"message_id": "1", "parent_id": None, "text": "a", "role": "prompter"},
            "Each row is a single message: gather",
        ),
        ({"role": "user", "content": "a"}, "Each row is a single message: gather"),
        ({"text": "### Human: a### Assistant: b"}, "`text` holds all of a conversation: divide it into `prompt` and"),
        ({"id": "1", "data": ["a", "b"]}, "`data` is a list of texts. If they are turns, write each as a message"),
        ({"id": "1", "items": MESSAGES["messages"]}, "need a column mapping, like {items: messages}."),
        ({"chat": json.dumps(MESSAGES["messages"])}, "need a column mapping, like {chat: messages}."),
    ],
)
def test_rows_of_another_form_come_with_what_to_do(row: dict[str, Any], found: str) -> None:
    assert found in not_sft(Dataset.from_list([row]))


def test_unpaired_preferences_and_images_are_refused() -> None:
    """A completion that is labelled bad is no human response, and an image would not be seen."""
    labelled = Dataset.from_list([{**TEXT, "label": False}])
    with pytest.raises(DataError, match="`label` says which completions are undesirable"):
        prepare(labelled, PairTemplate(tiny.tokenizer()))
    for label in (1, 0, 1.0, "True", "0"):
        with pytest.raises(DataError, match=r"`label` says which completions .*`column_mapping: \{label: topic\}`"):
            prepare(Dataset.from_list([{**TEXT, "label": label}]), PairTemplate(tiny.tokenizer()))
    with pytest.raises(DataError, match="Self-play on images is not supported"):
        prepare(Dataset.from_list([{**MESSAGES, "images": ["a.png"]}]), PairTemplate(tiny.tokenizer()))
    for column, what in (("image", "images"), ("video", "videos"), ("videos", "videos"), ("audio", "sound")):
        rows = Dataset.from_list([{**MESSAGES, column: None}, {**MESSAGES, column: "a"}])
        found = f"Self-play on {what} is not supported: the column `{column}` holds some, first in row 1"
        with pytest.raises(DataError, match=found):
            prepare(rows, PairTemplate(tiny.tokenizer()))


def test_columns_of_media_without_any_are_none(caplog: pytest.LogCaptureFixture) -> None:
    """As mixed datasets have them, for all rows. They are not named either."""
    rows = Dataset.from_list([{**MESSAGES, "images": [], "videos": None, "audio": "", "image": None}] * 2)
    assert len(prepare(rows, PairTemplate(tiny.tokenizer()))) == 2
    assert caplog.messages == []


def test_another_label_is_named() -> None:
    rows = Dataset.from_list([{**TEXT, "label": label} for label in (0, 1, 2)])
    assert "`label` (may say how good a response is" in (naming(rows, "train") or "")
