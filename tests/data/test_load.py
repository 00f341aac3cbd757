"""Datasets by name, with their columns called as the rest knows them; what can't be read is named, with file and line."""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

import tiny
from spin_trl.data.as_conversations import as_conversations
from spin_trl.data.keys import row_keys
from spin_trl.data.load import load, rename_columns
from spin_trl.data.prepare import prepare
from spin_trl.data.template import PairTemplate
from spin_trl.errors import DataError


def prepared(rows: Dataset, **options: Any) -> list[tuple[str, str]]:
    """Prompt and real response of every row that is trained on, as text with its special tokens."""
    tokenizer = tiny.tokenizer()
    found = prepare(rows, PairTemplate(tokenizer), **options)
    return [(tokenizer.decode(row["prompt_ids"]), tokenizer.decode(row["real_ids"])) for row in found]


# ---- files --------------------------------------------------------------------------------------------------------------


def as_json(path: Path, rows: Dataset) -> None:
    path.write_text(json.dumps(rows.to_list()), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Dataset], Any]] = {
    "rows.jsonl": tiny.write_jsonl,
    "rows.json": as_json,
    "rows.parquet": lambda path, rows: rows.to_parquet(path),
    "rows.csv": lambda path, rows: rows.to_csv(path),
    "saved": lambda path, rows: rows.save_to_disk(path),
    "saved-splits": lambda path, rows: DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_holds_the_same_rows(name: str, tmp_path: Path) -> None:
    """And so the same keys: generations survive a conversion of the dataset."""
    rows = tiny.sft(6)
    WRITERS[name](tmp_path / name, rows)
    loaded = load(str(tmp_path / name))
    assert loaded.to_list() == rows.to_list()
    assert row_keys(loaded) == row_keys(rows)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "saved"])
def test_conversations_survive_every_file_that_can_hold_them(name: str, tmp_path: Path) -> None:
    """With the tokens that they have in memory."""
    rows = tiny.sft(4, "multi-turn")
    WRITERS[name](tmp_path / name, rows)
    assert prepared(load(str(tmp_path / name)), turn="all") == prepared(rows, turn="all")


def test_a_split_of_a_saved_dataset_is_chosen_by_name(tmp_path: Path) -> None:
    """And a missing one is answered with those that are there."""
    WRITERS["saved-splits"](tmp_path / "saved", tiny.sft(3))
    assert len(load(str(tmp_path / "saved"), split="test")) == 1
    with pytest.raises(DataError, match=r"has no split 'dev'; its splits are \['train', 'test'\]"):
        load(str(tmp_path / "saved"), split="dev")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A package of the user's."""
    found = types.ModuleType("users_data")
    monkeypatch.setitem(sys.modules, "users_data", found)
    return found


def test_a_function_can_make_the_data(module: types.ModuleType) -> None:
    """It is called with the split, and a column mapping applies to what it returns."""
    module.load = lambda split: Dataset.from_list([{"question": split, "answer": "yes"}])  # type: ignore[attr-defined]
    mapping = {"question": "prompt", "answer": "completion"}
    loaded = load("users_data:load", split="dev", column_mapping=mapping)
    assert loaded.to_list() == [{"prompt": "dev", "completion": "yes"}]


def test_a_function_that_is_none_or_makes_no_dataset_is_named(module: types.ModuleType) -> None:
    """Whatever is wrong with `module:function`, the message repeats it."""
    module.load = lambda split: [split]  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"'users_data:load' returned list; expected a datasets\.Dataset"):
        load("users_data:load")
    with pytest.raises(DataError, match="'users_data:number' is not a function"):
        load("users_data:number")
    for name in ("users_data:nothing", "no_such_module_anywhere:load", ":load"):
        with pytest.raises(DataError, match=f"{name!r} names no function that can be imported"):
            load(name)


def test_a_hub_dataset_is_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its configuration, from the cache when there is no network."""
    import datasets.config

    rows = tiny.sft(2)
    tiny.datasets_cache(tmp_path / "datasets", {"org/boats": {"red": rows, "blue": rows.select([1])}})
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    assert load("org/boats", "blue").to_list() == [rows[1]]
    assert load("org/boats", "red").to_list() == rows.to_list()


def test_unknown_names_say_what_was_tried() -> None:
    """A typing error in a Hub name is bad input, not a failure."""
    with pytest.raises(DataError, match=r"'org/nothing' is neither a local file \(\.jsonl, .*nor could it be loaded"):
        load("org/nothing")


# ---- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "rows.csv"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    """And not looked for on the Hub."""
    with pytest.raises(DataError, match=rf"There is no file .*{name}\."):
        load(str(tmp_path / name))


def test_a_folder_without_a_dataset_is_named(tmp_path: Path) -> None:
    """It was not written by `save_to_disk`."""
    with pytest.raises(DataError, match=r"not one that `Dataset\.save_to_disk` wrote"):
        load(str(tmp_path))


GOOD_LINE = b'{"prompt": "a", "completion": "b"}\n'


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (b'{"prompt": "a", "completion": \n', r"not valid JSON \(Expecting value"),
        (b'{"prompt": "a"} {"prompt": "b"}\n', r"not valid JSON \(Extra data"),
        (b'{"prompt": "\xe9"}\n', "not valid JSON .*codec can't decode byte 0xe9"),
        (b"[1, 2]\n", r"expected an object like \{\.\.\.\}, found b'\[1, 2\]"),
    ],
    ids=["cut", "two on a line", "not UTF-8", "no object"],
)
def test_malformed_json_lines_name_file_and_line(bad: bytes, found: str, tmp_path: Path) -> None:
    """Blank lines count, so an editor finds the line."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD_LINE + b"\n" + GOOD_LINE + bad + GOOD_LINE)
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 4: {found}"):
        load(str(path))


def test_blank_lines_and_a_byte_order_mark_are_no_error(tmp_path: Path) -> None:
    """Both are common in files that people edited."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD_LINE + b"\n" + GOOD_LINE)
    assert load(str(path)).to_list() == [{"prompt": "a", "completion": "b"}] * 2


@pytest.mark.parametrize(
    ("name", "content"),
    [("rows.json", b'[{"prompt": "a",'), ("rows.parquet", b"PAR1xxxx"), ("rows.csv", b'prompt,completion\n"a,b\n')],
)
def test_other_files_that_are_damaged_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    """With what their reader says."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} can't be read: \w+"):
        load(str(tmp_path / name))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_an_empty_file_has_no_rows(name: str, tmp_path: Path) -> None:
    """A file that was never written to its end is often empty."""
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"{name} has no rows"):
        load(str(tmp_path / name))


def test_a_missing_column_is_answered_with_those_that_are_there() -> None:
    """In a mapping, and when nothing is mapped."""
    rows = tiny.sft(1, "question-answer")
    with pytest.raises(DataError, match=r"no column 'query'; its columns are \['question', 'answer'\]"):
        rename_columns(rows, {"query": "prompt"})
    with pytest.raises(
        DataError, match=r"has the columns \['question', 'answer'\]\. Expected `messages`.*column mapping"
    ):
        prepared(rows)


def test_a_recipes_mapping_is_passed_over_by_data_that_does_not_need_it(caplog: pytest.LogCaptureFixture) -> None:
    """`--dataset_name my/train.jsonl` works with any recipe, if the columns are known ones; a typing error does not."""
    mapping = {"question": "prompt", "answer": "completion"}
    for rows in (tiny.sft(1), tiny.sft(1, "messages"), tiny.preference(1)):
        caplog.clear()
        assert rename_columns(rows, mapping) is rows
        assert "`column_mapping` is passed over" in caplog.text
    with pytest.raises(DataError, match="no column 'answer'"):
        rename_columns(Dataset.from_list([{"question": "a", "reply": "b"}]), mapping)


def test_a_column_is_not_renamed_onto_another() -> None:
    """Which of the two is meant, only the user knows; swapping names is fine."""
    rows = Dataset.from_list([{"question": "a", "prompt": "b", "completion": "c"}])
    with pytest.raises(DataError, match="can't be renamed to 'prompt': there is one already"):
        rename_columns(rows, {"question": "prompt"})
    swapped = rename_columns(rows, {"question": "prompt", "prompt": "question"})
    assert swapped[0] == {"prompt": "a", "question": "b", "completion": "c"}


# ---- text for chat models -----------------------------------------------------------------------------------------------


def test_text_becomes_a_conversation_where_it_is_asked_for() -> None:
    """What a chat model is asked then has its template around it, and its answer ends its turn."""
    rows = Dataset.from_list([{"prompt": "Which?", "completion": "A boat.", "source": "made up"}])
    assert prepared(rows) == [("Which?", "A boat.<|im_end|>")]
    assert prepared(as_conversations(rows)) == [
        ("<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n", "A boat.<|im_end|>")
    ]


@pytest.mark.parametrize("kind", ["conversational", "messages"])
def test_conversations_stay_as_they_are(kind: tiny.SFTKind) -> None:
    """Whoever shares a setting between datasets loses nothing."""
    rows = tiny.sft(2, kind)
    assert as_conversations(rows) is rows
    empty = Dataset.from_dict({"prompt": [], "completion": []})
    assert as_conversations(empty) is empty  # whoever needs rows says so
