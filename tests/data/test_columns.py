"""A dataset's columns determine its kind, and which of them are read."""

from typing import Any

import pytest
from datasets import Dataset, IterableDataset

import tiny
from messages import refused
from spin_trl.data.columns import (
    PREPARED_COLUMNS,
    PROMPT_INPUT,
    as_preference,
    is_preference,
    is_sft,
    is_text,
    read_columns,
    refuse_media,
    with_input,
)
from spin_trl.errors import DataError

MESSAGES = [{"role": "user", "content": "Which?"}]


def test_preference_data_is_recognised_and_left_alone() -> None:
    """Its pairs are used; UCLA's columns are renamed to DPO's, and nothing else changes."""
    ucla = tiny.sft(2, "real-generated")
    assert is_preference(ucla)
    assert not is_sft(ucla)
    renamed = as_preference(ucla)
    assert renamed.column_names == ["chosen", "rejected"]
    assert [row["rejected"] for row in renamed] == [row["generated"] for row in ucla]
    pairs = tiny.preference(2)
    assert is_preference(pairs)
    assert as_preference(pairs) is pairs
    assert not is_sft(pairs)
    assert is_sft(tiny.sft(2))
    assert not is_preference(tiny.sft(2))


def test_streams_are_recognised_by_their_first_row() -> None:
    """An iterable dataset may not know its columns."""

    def rows() -> Any:
        yield from tiny.sft(2, "real-generated").to_list()

    stream = IterableDataset.from_generator(rows)
    assert is_preference(stream)
    assert next(iter(as_preference(stream))).keys() == {"chosen", "rejected"}


def test_unpaired_preferences_are_no_sft_data() -> None:
    """A completion labelled as undesirable must not become a real response."""
    rows = {"prompt": ["a", "b"], "completion": ["c", "d"]}
    assert is_sft(Dataset.from_dict(rows))
    assert not is_sft(Dataset.from_dict({**rows, "label": [True, False]}))
    assert is_sft(Dataset.from_dict({**rows, "label": ["sports", "news"]}))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["messages"], True), (["conversations"], True), (["prompt", "completion"], True), (["instruction", "output"], True),
        ([*PREPARED_COLUMNS], True), (["prompt", "chosen", "rejected"], False), (["messages", "chosen", "rejected"], False),
        (["real", "generated"], False), (["prompt"], False), (["instruction", "input"], False), (["text"], False),
    ],
)  # fmt: skip
def test_human_responses_are_recognised_by_their_columns(columns: list[str], expected: bool) -> None:
    """Pairs are not SFT data, whatever other columns there are."""
    assert is_sft(Dataset.from_dict({column: ["x"] for column in columns})) is expected


def test_text_is_text_in_every_row() -> None:
    """If rows without a completion have messages instead, the column is not text."""
    text = {"prompt": ["a", "b"], "completion": ["c", "d"]}
    assert is_text(Dataset.from_dict(text))
    assert is_text(Dataset.from_dict({**text, "messages": [MESSAGES, MESSAGES]}))
    assert not is_text(Dataset.from_dict({**text, "completion": ["c", None], "messages": [None, MESSAGES]}))
    assert not is_text(Dataset.from_dict({"prompt": [MESSAGES], "completion": [MESSAGES]}))
    assert not is_text(Dataset.from_dict({"messages": [MESSAGES]}))


EVERY = {
    "system": "s",
    "tools": "[]",
    "chat_template_kwargs": "{}",
    "history": [["a", "b"]],
    "input": "i",
    "source": "x",
}
CHAT_OPTIONS = ["system", "tools", "chat_template_kwargs"]


@pytest.mark.parametrize(
    ("row", "read"),
    [
        ({"messages": MESSAGES}, ["messages", *CHAT_OPTIONS]),
        ({"messages": MESSAGES, "conversations": MESSAGES}, ["messages", "conversations", *CHAT_OPTIONS]),
        ({"prompt": "a", "completion": "b"}, ["prompt", "completion"]),
        ({"prompt": "a", "completion": "b", PROMPT_INPUT: "c"}, ["prompt", "completion", PROMPT_INPUT]),
        ({"prompt": MESSAGES, "completion": MESSAGES}, ["prompt", "completion", "history", *CHAT_OPTIONS]),
        ({"messages": MESSAGES, "prompt": "a", "completion": "b"}, ["prompt", "completion"]),
        ({"instruction": "a", "output": "b"}, ["instruction", "input", "output", "history", *CHAT_OPTIONS]),
    ],
)  # fmt: skip
def test_what_is_read_depends_on_what_stands_beside_it(row: dict[str, Any], read: list[str]) -> None:
    """This follows the tables in docs/data.md; `source` is never read."""
    assert read_columns(Dataset.from_list([{**row, **EVERY}])) == read


def test_messages_are_read_where_a_completion_is_missing() -> None:
    rows = Dataset.from_dict({"messages": [MESSAGES] * 2, "prompt": ["a", "b"], "completion": ["c", None]})
    assert read_columns(rows) == ["messages", "prompt", "completion"]


@pytest.mark.parametrize(
    ("mapping", "columns", "expected"),
    [
        ({"instruction": "prompt", "output": "completion"}, ["instruction", "input", "output"], {"input": PROMPT_INPUT}),
        ({"instruction": "prompt", "output": "completion"}, ["instruction", "output"], {}),
        ({"instruction": "prompt", "output": "completion"}, ["instruction", "input", "output", PROMPT_INPUT], {}),
        ({"question": "prompt", "answer": "completion"}, ["question", "input", "answer"], {}),
        ({"question": "prompt", "answer": "completion", "context": "input"}, ["context"], {"context": PROMPT_INPUT}),
        ({"instruction": "prompt"}, ["instruction", "input"], {}),
    ],
)  # fmt: skip
def test_a_mapping_takes_alpacas_input_along(
    mapping: dict[str, str], columns: list[str], expected: dict[str, str]
) -> None:
    """`input` is used only if `instruction` becomes the prompt, or the user asks for it; otherwise it may be anything."""
    assert with_input(mapping, columns) == {**mapping, **expected}


@pytest.mark.parametrize("column", ["image", "images"])
def test_pictures_are_refused(column: str) -> None:
    with refused(DataError, "images", f"`{column}`", "row 0"):
        refuse_media(Dataset.from_dict({"messages": [MESSAGES], column: ["x"]}))
