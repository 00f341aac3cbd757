"""Columns that are not used are named once, with what they might be."""

import json
from typing import Any

import pytest
from datasets import Dataset

import tiny
from messages import names, refused
from spin_trl.data.columns import read_columns
from spin_trl.data.load import as_conversations
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
    told = naming(Dataset.from_list(rows), "train") or ""
    assert names(told, "train", "`category`")
    assert "system_prompt" not in told
    assert naming(Dataset.from_list(rows[:1]), "train") is None


def test_they_are_named_once_before_anything_else_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """The message has the dataset's name, and a hint if a column's name suggests one."""
    rows = Dataset.from_list([{**TEXT, "category": "boats", "system": "Be brief.", "question_id": 1}])
    prepare(rows, PairTemplate(tiny.tokenizer()), name="held-out")
    (told,) = caplog.messages
    assert names(told, "held-out", "`system`", "`as_conversations: true`", "`messages`", "`category`", "`question_id`")
    caplog.clear()
    prepare(rows.select_columns(["prompt", "completion"]), PairTemplate(tiny.tokenizer()))
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("column", "value", "hint"),
    [
        ("input", "x", ("`column_mapping: {input: prompt_input}`",)),
        ("context", "x", ("`column_mapping: {context: prompt_input}`",)),
        ("system_prompt", "x", ("system prompt", "`as_conversations: true`", "`system`")),
        ("question", "x", ("a prompt", "`prompt`", "`completion`")),
        ("answer", "x", ("a response", "`prompt`", "`completion`")),
        ("history", [["a", "b"]], ("turns", "`as_conversations: true`")),
        ("tools", "[]", ("plain text", "`as_conversations: true`")),
        ("text", "x", ("conversation", "`prompt`", "`completion`")),
        ("score", 0.5, ("good",)),
        ("weight", 1, ("train on", "`train`")),
    ],
)
def test_a_column_whose_name_says_something_comes_with_a_hint(column: str, value: Any, hint: tuple[str, ...]) -> None:
    told = naming(Dataset.from_list([{**TEXT, column: value}]), "train") or ""
    assert names(told, f"`{column}`", *hint)


def test_what_a_hint_proposes_is_read() -> None:
    """These are `system` and `history` with `as_conversations`, and `prompt_input` for what belongs to the prompt."""
    rows = Dataset.from_list([{**TEXT, "system": "Be brief.", "history": [["a", "b"]], "prompt_input": "Boats."}])
    assert unused_columns(as_conversations(rows)) == []
    assert unused_columns(rows) == ["system", "history"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["question", "answer"], ("{question: prompt, answer: completion}",)),
        (["Question", "Answer"], ("{Question: prompt, Answer: completion}",)),
        (["instruction", "context", "response"], ("{instruction: prompt, response: completion}",)),
        (["prompt", "chosen"], ("{chosen: completion}",)),
        (["a", "b"], ("{question: prompt, answer: completion}",)),
        (["query", "answers", "tools"], ("{query: prompt, answers: completion}",)),
        (["query", "b"], ("{query: prompt}", "column for `completion`")),
    ],
)
def test_a_dataset_that_is_none_gets_a_mapping_that_fits(columns: list[str], expected: tuple[str, ...]) -> None:
    assert names(not_sft(Dataset.from_dict({name: ["x"] for name in columns})), *expected)


def test_a_column_of_messages_gets_one_too() -> None:
    rows = Dataset.from_list([{"id": 1, "dialog": MESSAGES["messages"]}])
    assert names(not_sft(rows), "{dialog: messages}")


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["prompt", "b"], ("column for `completion`",)),
        (["prompt", " completion"], ("' completion'", "white space")),
        (["system", "chat"], ("`chat`", "list")),
    ],
    ids=["no completion", "white space", "text"],
)
def test_no_mapping_is_proposed_that_would_not_help(columns: list[str], found: tuple[str, ...]) -> None:
    told = not_sft(Dataset.from_dict({name: ["x"] for name in columns}))
    assert names(told, *found)
    assert "{" not in told


GATHERED = '`messages`: [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]'


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (
            {"message_id": "1", "parent_id": None, "text": "a", "role": "prompter"},
            (GATHERED,),
        ),
        ({"role": "user", "content": "a"}, (GATHERED,)),
        ({"text": "### Human: a### Assistant: b"}, ("`text`", "conversation")),
        ({"id": "1", "data": ["a", "b"]}, ("`data`", '{"role": "user", "content": ...}')),
        ({"id": "1", "items": MESSAGES["messages"]}, ("{items: messages}",)),
        ({"chat": json.dumps(MESSAGES["messages"])}, ("{chat: messages}",)),
    ],
    ids=["Open Assistant", "a message a row", "one text", "a list of texts", "messages", "messages in JSON text"],
)
def test_rows_of_another_form_come_with_what_to_do(row: dict[str, Any], found: tuple[str, ...]) -> None:
    assert names(not_sft(Dataset.from_list([row])), *found)


def test_unpaired_preferences_and_images_are_refused() -> None:
    """A completion labelled as bad is not a human response, and an image would be ignored."""
    labelled = Dataset.from_list([{**TEXT, "label": False}])
    with refused(DataError, "`label`", "unpaired"):
        prepare(labelled, PairTemplate(tiny.tokenizer()))
    for label in (1, 0, 1.0, "True", "0"):
        with refused(DataError, "`label`", "unpaired", "`column_mapping: {label: topic}`"):
            prepare(Dataset.from_list([{**TEXT, "label": label}]), PairTemplate(tiny.tokenizer()))
    with refused(DataError, "images", "`images`", "row 0"):
        prepare(Dataset.from_list([{**MESSAGES, "images": ["a.png"]}]), PairTemplate(tiny.tokenizer()))
    for column, what in (("image", "images"), ("video", "videos"), ("videos", "videos"), ("audio", "sound")):
        rows = Dataset.from_list([{**MESSAGES, column: None}, {**MESSAGES, column: "a"}])
        with refused(DataError, what, f"`{column}`", "row 1"):
            prepare(rows, PairTemplate(tiny.tokenizer()))


def test_columns_of_media_without_any_are_none(caplog: pytest.LogCaptureFixture) -> None:
    """Mixed datasets have such columns, empty in all rows. They are not named either."""
    rows = Dataset.from_list([{**MESSAGES, "images": [], "videos": None, "audio": "", "image": None}])
    assert len(prepare(rows, PairTemplate(tiny.tokenizer()))) == 1
    assert caplog.messages == []


def test_another_label_is_named() -> None:
    rows = Dataset.from_list([{**TEXT, "label": label} for label in (0, 1, 2)])
    assert names(naming(rows, "train") or "", "`label`", "good")


def test_many_columns_are_named_in_no_time() -> None:
    """Each is examined once, and what is known about all of them is not copied for each."""
    rows = Dataset.from_dict(
        {"prompt": ["a"], "completion": ["b"]} | {f"column {number}": [1] for number in range(500)}
    )
    features = 0

    class Counted(Dataset):
        @property
        def features(self) -> Any:
            nonlocal features
            features += 1
            return super().features

    rows.__class__ = Counted
    assert names(naming(rows, "training") or "", "`column 0`", "`column 499`")
    assert features < 20
