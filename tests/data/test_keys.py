"""A row is identified by a key of its content, and a dataset by a digest of its rows' keys."""

from collections import Counter

import pytest
from datasets import Dataset

import tiny
from spin_trl.data.keys import KEY_DIGITS, row_keys, rows_digest
from spin_trl.data.load import as_conversations
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.files import definition_of, json_digest

HUMAN, GPT = {"from": "human", "value": "Which?"}, {"from": "gpt", "value": "A boat."}
ALPACA = {"instruction": "Sort these.", "input": "b a", "output": "a b"}


def test_keys_outlive_shuffling_and_other_columns() -> None:
    """A key depends on a row's content, not on its position."""
    rows = tiny.sft(12)
    more = rows.add_column("source", ["web"] * 12)
    shuffled = more.shuffle(seed=5)
    by_prompt = dict(zip(rows["prompt"], row_keys(rows).keys, strict=True))
    assert shuffled["prompt"][:] != rows["prompt"][:]
    assert dict(zip(shuffled["prompt"], row_keys(shuffled).keys, strict=True)) == by_prompt
    assert row_keys(shuffled).digest != row_keys(rows).digest
    assert row_keys(more).digest == row_keys(rows).digest


@pytest.mark.parametrize("column", ["prompt", "completion", "tools", "chat_template_kwargs"])
def test_another_content_has_another_key(column: str) -> None:
    """Everything that affects the tokens is part of the key."""
    row = {"prompt": "a", "completion": "b", "tools": "[]", "chat_template_kwargs": "{}"}
    keys = row_keys(Dataset.from_list([row, {**row, column: "c"}])).keys
    assert keys[0] != keys[1]


def test_duplicates_have_keys_of_their_own() -> None:
    """So each has its own generation; shuffling gives the same set of keys."""
    rows = Dataset.from_list([{"prompt": "a", "completion": "b"}] * 3 + [{"prompt": "a", "completion": "c"}])
    keys = row_keys(rows).keys
    assert len(set(keys)) == 4
    assert set(row_keys(rows.shuffle(seed=1)).keys) == set(keys)


def test_every_turn_has_a_key_of_its_own() -> None:
    """With `turn: all`, a conversation becomes several rows."""
    rows = prepare(tiny.sft(3, "multi-turn"), PairTemplate(tiny.tokenizer()), turn="all")
    assert len(rows) == len(set(rows["key"])) == 6
    assert Counter(key.rpartition(".")[0] for key in rows["key"]) == dict.fromkeys(
        row_keys(tiny.sft(3, "multi-turn")).keys, 2
    )


def test_the_digest_of_rows_follows_their_keys_and_order() -> None:
    """So a run can tell whether its dataset has changed."""
    template = PairTemplate(tiny.tokenizer())
    rows = prepare(tiny.sft(6), template)
    assert rows_digest(rows) == rows_digest(prepare(tiny.sft(6), template))
    assert rows_digest(rows) != rows_digest(rows.select([1, 0, 2, 3, 4, 5]))
    assert rows_digest(rows) != rows_digest(rows.select(range(5)))


def test_what_is_read_is_part_of_a_rows_identity() -> None:
    """Columns that are not read are not part of it, nor are columns that say nothing about a row."""
    plain = Dataset.from_list([{"conversations": [HUMAN, GPT]}] * 2)
    for system in ("Be brief.", None):
        rows = plain.add_column("system", [system, None])
        assert (row_keys(rows).keys[0] == row_keys(plain).keys[0]) == (system is None)
    assert row_keys(plain.add_column("source", ["web"] * 2)) == row_keys(plain)
    keys = row_keys(Dataset.from_list([ALPACA, {**ALPACA, "input": "x"}, {**ALPACA, "output": "x"}])).keys
    assert len({key.partition("-")[0] for key in keys}) == 3


def test_a_digest_says_by_which_definition_it_was_made() -> None:
    """A run of version 0.1.0 resumes with its own digest, which was computed with that version's code."""
    rows = Dataset.from_list([{"prompt": "Which?", "completion": " A boat.", "system": "Be brief."}])
    now, then = row_keys(as_conversations(rows)), row_keys(as_conversations(rows), definition=1)
    assert then.digest == row_keys(as_conversations(rows.remove_columns("system")), definition=1).digest
    assert (definition_of(now.digest), definition_of(then.digest), definition_of(None)) == (2, 1, 2)
    assert now.digest.startswith("02")
    assert len(now.digest) == 18
    plain = rows.remove_columns("system")
    assert list(row_keys(plain).keys) == list(row_keys(plain, definition=1).keys) == ["88353b41ce68799659d2"]
    assert row_keys(plain, definition=1).digest == "966b40a0c3575e1d"


def test_the_order_of_a_mappings_keys_does_not_change_its_hash() -> None:
    """The value was computed with `sha256sum` of `{"a": 1, "b": [2, null]}`."""
    assert json_digest({"b": [2, None], "a": 1}) == json_digest({"a": 1, "b": [2, None]}) == "c8caf5ad035ad1d6"


def test_rows_of_equal_content_are_numbered_in_order() -> None:
    """Keys can be read by index, from the end, and as a slice; without rows there are none."""
    one, other = ({"prompt": text, "completion": "b"} for text in ("a", "c"))
    keys = row_keys(Dataset.from_list([one, other, one, one, other])).keys
    first, second = keys[0], keys[1]
    assert list(keys) == [first, second, f"{first}-2", f"{first}-3", f"{second}-2"]
    assert (len(first), len(second), first != second) == (KEY_DIGITS, KEY_DIGITS, True)
    assert keys[-1] == f"{second}-2"
    assert list(keys[1:3]) == [second, f"{first}-2"]
    assert list(row_keys(Dataset.from_dict({"prompt": [], "completion": []})).keys) == []


def test_rows_without_a_known_column_have_keys_that_do_not_depend_on_memory() -> None:
    rows = Dataset.from_dict({"other": ["a", "b"]})
    keys = list(row_keys(rows).keys)
    assert keys == [json_digest({}, KEY_DIGITS), f"{json_digest({}, KEY_DIGITS)}-2"]
