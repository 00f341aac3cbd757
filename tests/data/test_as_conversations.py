"""Text becomes a conversation if the user asks for it; messages are unchanged."""

import pytest
from datasets import Dataset

import tiny
from spin_trl.data.load import as_conversations, load_rows
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate


def prepared(rows: Dataset) -> list[tuple[str, str]]:
    """Return prompt and real response of every row, as text with special tokens."""
    tokenizer = tiny.tokenizer()
    found = prepare(rows, PairTemplate(tokenizer))
    return [(tokenizer.decode(row["prompt_ids"]), tokenizer.decode(row["real_ids"])) for row in found]


def chat(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def test_text_becomes_a_conversation_where_it_is_asked_for() -> None:
    """The prompt then has the chat model's template around it, and the answer ends its turn."""
    rows = Dataset.from_list([{"prompt": "Which?", "completion": "A boat.", "source": "made up"}])
    assert prepared(rows) == [("Which?", "A boat.<|im_end|>")]
    assert prepared(as_conversations(rows)) == [
        ("<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n", "A boat.<|im_end|>")
    ]


@pytest.mark.parametrize("kind", ["conversational", "messages"])
def test_conversations_stay_as_they_are(kind: tiny.SFTKind) -> None:
    """So one setting can be shared by several datasets."""
    rows = tiny.sft(2, kind)
    assert as_conversations(rows) is rows
    empty = Dataset.from_dict({"prompt": [], "completion": []})
    assert as_conversations(empty) is empty  # code that needs rows says so


def test_text_and_messages_may_stand_in_one_column(tmp_path) -> None:
    """Each row is read as its own kind, with and without `as_conversations`."""
    rows = [
        '{"prompt": [{"role": "user", "content": "Why?"}], "completion": [{"role": "assistant", "content": "Red."}]}',
        '{"prompt": "Which?", "completion": "A boat."}',
    ]
    for order in (rows, rows[::-1]):
        (tmp_path / "mixed.jsonl").write_text("\n".join(order), encoding="utf-8")
        mixed = load_rows(str(tmp_path / "mixed.jsonl"))
        messages = (chat("Why?"), "Red.<|im_end|>")
        assert set(prepared(mixed)) == {messages, ("Which?", "A boat.<|im_end|>")}
        assert set(prepared(as_conversations(mixed))) == {messages, (chat("Which?"), "A boat.<|im_end|>")}


def test_other_columns_and_nulls_stay() -> None:
    """A null is not text, and is refused with its row's number when prepared."""
    rows = Dataset.from_list([{"prompt": "a", "completion": "b", "system": "s"}, {"prompt": "c", "completion": None}])
    found = as_conversations(rows).to_list()
    assert found[0] == {
        "prompt": [{"role": "user", "content": "a"}],
        "completion": [{"role": "assistant", "content": "b"}],
        "system": "s",
    }
    assert found[1]["completion"] is None
