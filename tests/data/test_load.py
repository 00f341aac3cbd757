"""Datasets are loaded by name, with their columns mapped to known names; errors name the file and line."""

import bz2
import gzip
import io
import json
import lzma
import os
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

import tiny
from messages import names, refused
from spin_trl.data.keys import row_keys
from spin_trl.data.load import load_rows, rename_columns
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.errors import DataError


def prepared(rows: Dataset, **options: Any) -> list[tuple[str, str]]:
    """Return prompt and real response of every row that is trained on, as text with special tokens."""
    tokenizer = tiny.tokenizer()
    found = prepare(rows, PairTemplate(tokenizer), **options)
    return [(tokenizer.decode(row["prompt_ids"]), tokenizer.decode(row["real_ids"])) for row in found]


# ---- files --------------------------------------------------------------------------------------------------------------


def as_json(path: Path, rows: Dataset) -> None:
    path.write_text(json.dumps(rows.to_list()), encoding="utf-8")


def as_arrow(path: Path, rows: Dataset) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.data.schema) as writer:
        writer.write_table(rows.data.table)


def compressed(path: Path, rows: Dataset, compress: Callable[[bytes], bytes]) -> None:
    tiny.write_jsonl(path, rows)
    path.write_bytes(compress(path.read_bytes()))


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("rows.jsonl", data)
    return file.getvalue()


WRITERS: dict[str, Callable[[Path, Dataset], Any]] = {
    "rows.jsonl": tiny.write_jsonl,
    "rows.json": as_json,
    "rows.parquet": lambda path, rows: rows.to_parquet(path),
    "rows.csv": lambda path, rows: rows.to_csv(path),
    "rows.tsv": lambda path, rows: rows.to_csv(path, sep="\t"),
    "semicolons.csv": lambda path, rows: rows.to_csv(path, sep=";"),
    "ROWS.CSV": lambda path, rows: rows.to_csv(path),
    "ROWS.PARQUET": lambda path, rows: rows.to_parquet(path),
    "rows.ndjson": tiny.write_jsonl,
    "rows.arrow": lambda path, rows: as_arrow(path, rows),
    "rows.jsonl.gz": lambda path, rows: compressed(path, rows, gzip.compress),
    "rows.jsonl.bz2": lambda path, rows: compressed(path, rows, bz2.compress),
    "rows.jsonl.xz": lambda path, rows: compressed(path, rows, lzma.compress),
    "rows.jsonl.zst": lambda path, rows: compressed(path, rows, lambda data: pa.compress(data, "zstd", asbytes=True)),
    "rows.jsonl.zip": lambda path, rows: compressed(path, rows, zipped),
    "under-a-key.json": lambda path, rows: path.write_text(
        json.dumps({"version": "1", "data": rows.to_list()}), encoding="utf-8"
    ),
    "lines.json": tiny.write_jsonl,
    "saved": lambda path, rows: rows.save_to_disk(path),
    "saved-splits": lambda path, rows: DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_holds_the_same_rows(name: str, tmp_path: Path) -> None:
    """The keys are the same too, so generations survive a conversion of the dataset."""
    rows = tiny.sft(6)
    WRITERS[name](tmp_path / name, rows)
    loaded = load_rows(str(tmp_path / name))
    assert loaded.to_list() == rows.to_list()
    assert row_keys(loaded) == row_keys(rows)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "saved"])
def test_conversations_survive_every_file_that_can_hold_them(name: str, tmp_path: Path) -> None:
    """The tokens are the same as in memory."""
    rows = tiny.sft(4, "multi-turn")
    WRITERS[name](tmp_path / name, rows)
    assert prepared(load_rows(str(tmp_path / name)), turn="all") == prepared(rows, turn="all")


@pytest.mark.parametrize(
    "name",
    ["data[1].jsonl", "a*b?.parquet", "two\nlines.csv", "a::b.jsonl", "{x} ^y.parquet", "#1%20.json", "$HOME.parquet"],
)
def test_a_name_may_hold_what_means_something_in_patterns(name: str, tmp_path: Path) -> None:
    """`datasets` would read such a name as a glob pattern, or as a URL."""
    rows = tiny.sft(2)
    WRITERS[f"rows{Path(name).suffix}"](tmp_path / "rows", rows)
    (tmp_path / "rows").rename(tmp_path / name)
    (tmp_path / "data1.jsonl").write_text("{}", encoding="utf-8")
    assert load_rows(str(tmp_path / name)).to_list() == rows.to_list()


@pytest.mark.parametrize("name", ["rows.parquet.gz", "rows.arrow.GZ"])
def test_a_compressed_file_of_a_format_that_compresses_itself_is_refused(name: str, tmp_path: Path) -> None:
    compressed(tmp_path / name, tiny.sft(2), gzip.compress)
    with refused(DataError, tmp_path / name, "gz", name.split(".")[1].capitalize()):
        load_rows(str(tmp_path / name))


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a recipe, no shell expands it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.sft(2))
    assert len(load_rows("~/rows.jsonl")) == 2


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """Cache entries are named by the content, not by the modification time."""
    path = tmp_path / "rows.csv"
    for answer in ("b", "c"):
        path.write_text(f"prompt,completion\na,{answer}\n", encoding="utf-8")
        os.utime(path, (1, 1))
        assert load_rows(str(path))[0]["completion"] == answer


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "saved"])
def test_a_part_of_a_file_can_be_taken(name: str, tmp_path: Path) -> None:
    """The syntax is that of `datasets`; without brackets, a file is a single split of any name."""
    rows = tiny.sft(4)
    WRITERS[name](tmp_path / name, rows)
    assert load_rows(str(tmp_path / name), split="train[:50%]").to_list() == rows.to_list()[:2]
    assert load_rows(str(tmp_path / name), split="test[-1:]").to_list() == rows.to_list()[3:]
    assert len(load_rows(str(tmp_path / name), split="test")) == 4


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_a_pointer_of_git_lfs_is_named(name: str, tmp_path: Path) -> None:
    """`git clone` leaves such a file if Git LFS is not installed."""
    (tmp_path / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:123\nsize 9\n", encoding="utf-8"
    )
    with refused(DataError, tmp_path / name, "Git LFS", "`git lfs pull`"):
        load_rows(str(tmp_path / name))


def test_a_saved_format_does_not_change_the_rows(tmp_path: Path) -> None:
    """`save_to_disk` stores the format, with which numbers would be read as tensors."""
    rows = tiny.sft(2).add_column("id", [1, 2])
    rows.with_format("numpy").save_to_disk(tmp_path / "saved")
    assert type(load_rows(str(tmp_path / "saved"))[0]["id"]) is int


def test_addresses_and_patterns_are_named(tmp_path: Path) -> None:
    """Neither is taken for a name on the Hub."""
    with refused(DataError, "https://example.org/rows.jsonl", "URL"):
        load_rows("https://example.org/rows.jsonl")
    with refused(DataError, "no file", tmp_path / "*.jsonl", "Patterns", "folder"):
        load_rows(str(tmp_path / "*.jsonl"))


def test_objects_of_mixed_shape_in_parquet_are_read_exactly(tmp_path: Path) -> None:
    """`datasets` stores them as JSON, and would read 0.6 as 0.6000000000000001."""
    calls = [{"x": 0.6}, {"y": [0.6]}]
    Dataset.from_list([{"call": call} for call in calls], on_mixed_types="use_json").to_parquet(
        tmp_path / "rows.parquet"
    )
    assert load_rows(str(tmp_path / "rows.parquet"))["call"][:] == calls


def test_a_split_of_a_saved_dataset_is_chosen_by_name(tmp_path: Path) -> None:
    """If the split is missing, the error lists those that exist."""
    WRITERS["saved-splits"](tmp_path / "saved", tiny.sft(3))
    assert len(load_rows(str(tmp_path / "saved"), split="test")) == 1
    with refused(DataError, tmp_path / "saved", "'dev'", "['train', 'test']", "`dataset_train_split`"):
        load_rows(str(tmp_path / "saved"), split="dev")
    assert len(load_rows(str(tmp_path / "saved"), split="train[:2]+test")) == 3


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Write a user's package."""
    found = types.ModuleType("users_data")
    monkeypatch.setitem(sys.modules, "users_data", found)
    return found


def test_a_function_can_make_the_data(module: types.ModuleType) -> None:
    """It is called with the split, and a column mapping applies to its result."""
    module.load = lambda split: Dataset.from_list([{"question": split, "answer": "yes"}])  # type: ignore[attr-defined]
    mapping = {"question": "prompt", "answer": "completion"}
    loaded = load_rows("users_data:load", split="dev", column_mapping=mapping)
    assert loaded.to_list() == [{"prompt": "dev", "completion": "yes"}]


def test_a_function_gets_the_configuration_if_there_is_one(module: types.ModuleType) -> None:
    """The configuration can be the folder of its files; the error names a function that takes none."""
    module.load = lambda split, folder="default": Dataset.from_list([{"prompt": split, "completion": folder}])  # type: ignore[attr-defined]
    assert load_rows("users_data:load", "here", "dev").to_list() == [{"prompt": "dev", "completion": "here"}]
    assert load_rows("users_data:load", None, "dev").to_list() == [{"prompt": "dev", "completion": "default"}]
    module.alone = lambda split: Dataset.from_list([{"prompt": split, "completion": "a"}])  # type: ignore[attr-defined]
    with refused(DataError, "'users_data:alone'", "'here'", "TypeError"):
        load_rows("users_data:alone", "here")


def test_a_function_that_is_none_or_makes_no_dataset_is_named(module: types.ModuleType) -> None:
    """Whatever is wrong with `module:function`, the message repeats it."""
    module.load = lambda split: [split]  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    with refused(DataError, "'users_data:load'", "list", "datasets.Dataset"):
        load_rows("users_data:load")
    with refused(DataError, "'users_data:number'", "function", "int"):
        load_rows("users_data:number")
    for name in ("users_data:nothing", "no_such_module_anywhere:load", ":load"):
        with refused(DataError, repr(name), "function"):
            load_rows(name)


def test_a_hub_dataset_is_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded with its configuration, from the cache if there is no network."""
    import datasets.config

    rows = tiny.sft(2)
    tiny.datasets_cache(tmp_path / "datasets", {"org/boats": {"red": rows, "blue": rows.select([1])}})
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    assert load_rows("org/boats", "blue").to_list() == [rows[1]]
    assert load_rows("org/boats", "red").to_list() == rows.to_list()


def test_unknown_names_say_what_was_tried() -> None:
    """A typo in a Hub name is bad input, not a failure."""
    with refused(DataError, "'org/nothing'", "file", ".jsonl", "folder", "Hub"):
        load_rows("org/nothing")


# ---- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "rows.csv", "rows.tsv", "ROWS.JSONL.gz"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    """It is not looked up on the Hub."""
    with refused(DataError, "no file", tmp_path / name):
        load_rows(str(tmp_path / name))


@pytest.mark.parametrize("name", ["./rows", "../rows", "~/rows", "/no/rows"])
def test_what_looks_like_a_path_is_not_looked_for_on_the_hub(name: str) -> None:
    """The message has the path."""
    with refused(DataError, "no file", "folder", f"{name.strip('.~')}."):
        load_rows(name)


@pytest.mark.parametrize("name", ["rows.txt", "rows.xlsx", "rows"])
def test_a_file_of_another_format_is_answered_with_those_that_are_read(name: str, tmp_path: Path) -> None:
    """The file exists, so it can't be meant as a name on the Hub."""
    (tmp_path / name).write_bytes(b"hello")
    with refused(DataError, tmp_path / name, "extension", ".jsonl", ".tsv"):
        load_rows(str(tmp_path / name))


def test_a_folder_without_a_dataset_is_named(tmp_path: Path) -> None:
    """It was not written by `save_to_disk`."""
    with refused(DataError, tmp_path, "`Dataset.save_to_disk`", ".jsonl"):
        load_rows(str(tmp_path))


GOOD_LINE = b'{"prompt": "a", "completion": "b"}\n'


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (b'{"prompt": "a", "completion": \n', ("JSON", "Expecting value")),
        (b'{"prompt": "a"} {"prompt": "b"}\n', ("JSON", "Extra data")),
        (b'{"prompt": "\xe9"}\n', ("UTF-8", "byte 0xe9")),
        (b"[1, 2]\n", ("{...}", "b'[1, 2]")),
    ],
    ids=["cut", "two on a line", "not UTF-8", "no object"],
)
def test_malformed_json_lines_name_file_and_line(bad: bytes, found: tuple[str, ...], tmp_path: Path) -> None:
    """Blank lines count, so that an editor finds the line."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD_LINE + b"\n" + GOOD_LINE + bad + GOOD_LINE)
    with refused(DataError, f"{path}, line 4", *found):
        load_rows(str(path))


def test_blank_lines_and_a_byte_order_mark_are_no_error(tmp_path: Path) -> None:
    """Both are common in hand-edited files."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD_LINE + b"\n" + GOOD_LINE)
    assert load_rows(str(path)).to_list() == [{"prompt": "a", "completion": "b"}] * 2


@pytest.mark.parametrize(
    ("name", "content"),
    [("rows.json", b'[{"prompt": "a",'), ("rows.parquet", b"PAR1xxxx"), ("rows.arrow", b"ARROW1xx")],
)
def test_other_files_that_are_damaged_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    """The message includes the reader's own error."""
    (tmp_path / name).write_bytes(content)
    words = {"rows.json": ("line 1", "JSON"), "rows.parquet": ("Parquet",), "rows.arrow": (len(content),)}
    with refused(DataError, tmp_path / name, *words[name]):
        load_rows(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", b""),
        ("rows.jsonl", b"\n\n"),
        ("rows.json", b""),
        ("rows.json", b"[]"),
        ("rows.csv", b""),
        ("rows.csv", b"prompt,completion\n"),
    ],
)
def test_an_empty_file_has_no_rows(name: str, content: bytes, tmp_path: Path) -> None:
    """A file whose writing was interrupted is often empty, or has only a header."""
    (tmp_path / name).write_bytes(content)
    with refused(DataError, tmp_path / name, "no rows"):
        load_rows(str(tmp_path / name))


EMPTY = {"prompt": pa.array([], pa.string()), "completion": pa.array([], pa.string())}


def test_a_table_without_rows_is_refused_in_the_same_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """This covers Parquet, both Arrow formats, and `save_to_disk` (also one split among several)."""
    table = pa.table(EMPTY)
    pq.write_table(table, tmp_path / "rows.parquet")
    for name, write in (("stream.arrow", pa.ipc.new_stream), ("file.arrow", pa.ipc.new_file)):
        with write(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    Dataset(table).save_to_disk(tmp_path / "saved")
    DatasetDict(train=Dataset.from_list(tiny.sft(2)), test=Dataset(table)).save_to_disk(tmp_path / "splits")
    capfd.readouterr()
    for name in ("rows.parquet", "stream.arrow", "file.arrow", "saved", "splits"):
        with refused(DataError, tmp_path / name / ("test" if name == "splits" else ""), "no rows"):
            load_rows(str(tmp_path / name))
    assert "Arrow" not in capfd.readouterr().err


def test_a_file_without_rows_among_others_is_passed_over(tmp_path: Path) -> None:
    """The rows are those of the other files, as with CSV and JSON lines."""
    rows = Dataset.from_list(tiny.sft(2)).select_columns(["prompt", "completion"])
    pq.write_table(pa.table(EMPTY), tmp_path / "train-0.parquet")
    rows.to_parquet(tmp_path / "train-1.parquet")
    assert load_rows(str(tmp_path)).to_list() == rows.to_list()


def test_a_missing_column_is_answered_with_those_that_are_there() -> None:
    """This holds with and without a mapping."""
    rows = tiny.sft(1, "question-answer")
    with refused(DataError, "'query'", "['question', 'answer']", "`column_mapping`"):
        rename_columns(rows, {"query": "prompt"})
    with refused(DataError, "['question', 'answer']", "`messages`", "{question: prompt, answer: completion}"):
        prepared(rows)


def test_a_recipes_mapping_is_passed_over_by_data_that_does_not_need_it(caplog: pytest.LogCaptureFixture) -> None:
    """`--dataset_name my/train.jsonl` works with any recipe if its columns are known; a misspelt column is an error."""
    mapping = {"question": "prompt", "answer": "completion"}
    for rows in (tiny.sft(1), tiny.sft(1, "messages"), tiny.preference(1)):
        caplog.clear()
        assert rename_columns(rows, mapping) is rows
        assert names(caplog.text, "`column_mapping`", rows.column_names)
    with refused(DataError, "'answer'", "['question', 'reply']", "`column_mapping`"):
        rename_columns(Dataset.from_list([{"question": "a", "reply": "b"}]), mapping)


def test_a_column_is_not_renamed_onto_another() -> None:
    """Only the user knows which of the two is meant; swapping names is allowed."""
    rows = Dataset.from_list([{"question": "a", "prompt": "b", "completion": "c"}])
    with refused(DataError, "'question'", "'prompt'", "['question', 'prompt', 'completion']", "renamed"):
        rename_columns(rows, {"question": "prompt"})
    swapped = rename_columns(rows, {"question": "prompt", "prompt": "question"})
    assert swapped[0] == {"prompt": "a", "question": "b", "completion": "c"}


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("metadata", ["{", "3", '{"info": {"features": 3}}', '{"info": {"features": {"prompt": 3}}}'])
def test_metadata_of_another_shape_is_refused_with_the_file(metadata: str, form: str, tmp_path: Path) -> None:
    """`datasets` copies them into the schema, and assumes that they have the right shape."""
    table = pa.table({"prompt": ["a"], "completion": ["b"]}).replace_schema_metadata({"huggingface": metadata})
    path = tmp_path / f"rows.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    with refused(DataError, path):
        load_rows(str(path))
