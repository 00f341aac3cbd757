"""Nothing is written next to a user's dataset: caches go into the cache of `datasets` or a temporary folder."""

import os
from pathlib import Path
from typing import Any

import datasets.config
import pytest
from datasets import load_from_disk

import tiny
from messages import logged, refused
from spin_trl import SPINConfig, SPINTrainer
from spin_trl.data.arrow import remapped
from spin_trl.data.load import as_conversations, load_rows
from spin_trl.data.prepare import prepare
from spin_trl.data.reading.kept import apart
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.errors import DataError


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Return all files of a folder with size and modification time."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return a dataset written by `save_to_disk`."""
    tiny.sft(6).save_to_disk(tmp_path / "users" / "saved")
    return tmp_path / "users" / "saved"


def test_nothing_is_written_beside_a_saved_dataset(saved: Path) -> None:
    """This holds for every operation of `datasets` and of this package."""
    before = tree(saved)
    rows = as_conversations(load_rows(str(saved)))
    assert len(prepare(rows, PairTemplate(tiny.tokenizer()))) == 6
    dataset = load_rows(str(saved))
    dataset.map(lambda row: {"more": 1}).filter(lambda row: True).sort("prompt")
    dataset.shuffle(seed=0).flatten_indices()
    dataset.select([3, 1]).map(lambda row: {"more": 1}, num_proc=2)
    dataset.train_test_split(0.5)
    assert tree(saved) == before


def test_nothing_is_written_beside_a_dataset_that_is_given_as_an_object(saved: Path) -> None:
    """Every dataset of human responses goes through `prepare`."""
    before = tree(saved)
    prepare(load_from_disk(str(saved)), PairTemplate(tiny.tokenizer()))
    assert tree(saved) == before


def test_nothing_is_written_beside_preference_data(tmp_path: Path) -> None:
    """DPOTrainer's own preparation would write there."""
    tiny.preference(4).save_to_disk(tmp_path / "saved")
    before = tree(tmp_path / "saved")
    given = load_from_disk(str(tmp_path / "saved"))
    trainer = SPINTrainer(
        tiny.model(),
        args=SPINConfig(
            str(tmp_path / "out"), use_cpu=True, bf16=False, report_to="none", precompute_ref_log_probs=True
        ),
        train_dataset=given,
        eval_dataset=given,
        processing_class=tiny.tokenizer(),
    )
    assert len(trainer.train_dataset) == 4
    assert tree(tmp_path / "saved") == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_read(saved: Path) -> None:
    """A network share may be read-only."""
    for folder in (saved, saved.parent):
        folder.chmod(0o555)
    assert len(prepare(load_rows(str(saved)), PairTemplate(tiny.tokenizer()))) == 6


def test_a_dataset_that_was_saved_in_the_cache_is_a_users_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some users keep all data in one folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    tiny.sft(2).save_to_disk(tmp_path / "saved")
    before = tree(tmp_path / "saved")
    load_rows(str(tmp_path / "saved")).map(lambda row: {"more": 1})
    assert tree(tmp_path / "saved") == before


def test_links_hold_the_same_rows(saved: Path) -> None:
    """They still do after another `map`, and for a selection."""
    dataset = load_from_disk(str(saved)).select([4, 2])
    linked = apart(dataset)
    assert linked[:] == dataset[:]
    assert remapped(linked)[:] == dataset[:]
    assert all(Path(file["filename"]).is_symlink() for file in linked.cache_files)
    assert apart(linked) is linked
    assert dataset.cache_files[0]["filename"] == str(saved / "data-00000-of-00001.arrow")


def test_what_has_no_files_of_the_users_stays_as_it_is(tmp_path: Path) -> None:
    """This applies to a dataset in memory, one from the cache, and no dataset at all."""
    tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.sft(2))
    found: list[Any] = [tiny.sft(2), load_rows(str(tmp_path / "rows.jsonl")), {"train": 1}, None]
    for dataset in found:
        assert apart(dataset) is dataset


def test_a_cache_that_can_not_be_written_is_replaced(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary folder holds the caches instead; if data has to be read into the cache, the error names the variable
    to set.
    """
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    before = tree(saved)
    assert len(load_rows(str(saved)).map(lambda row: {"more": 1})) == 6
    assert tree(saved) == before
    tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.sft(2))
    with refused(DataError, tmp_path / "rows.jsonl", tmp_path / "file", "HF_DATASETS_CACHE"):
        load_rows(str(tmp_path / "rows.jsonl"))


def test_nothing_is_written_beside_files(tmp_path: Path) -> None:
    """This holds for every file format."""
    folder = tmp_path / "users"
    folder.mkdir()
    rows = tiny.sft(3)
    tiny.write_jsonl(folder / "a.jsonl", rows)
    rows.to_csv(folder / "b.csv")
    rows.to_parquet(folder / "c[1].parquet")
    before = tree(folder)
    for file in sorted(folder.iterdir()):
        assert len(as_conversations(load_rows(str(file)))) == 3
    assert tree(folder) == before


def test_a_file_that_fails_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    """The next attempt reads the file again."""
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion\na,b\nc\n", encoding="utf-8")
    for _ in range(2):
        with refused(DataError, f"{path}, line 3"):
            load_rows(str(path))
    assert not list((Path(datasets.config.HF_DATASETS_CACHE) / "spin_trl").rglob("*.tmp"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (
            "rows.jsonl",
            '{"prompt": "a", "completion": "b", "odd\\u0000": 1}\n{"prompt": "c", "completion": "d", "odd\\u0000": "x"}\n',
        ),
        ("rows.csv", "prompt,completion,odd\0\na,b,1\nc,d,x\n"),
    ],
    ids=["JSON lines", "CSV"],
)
def test_a_column_with_a_name_that_can_not_be_stored_is_left_out(
    tmp_path: Path, file: str, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The other columns are read, and a warning names it."""
    (tmp_path / file).write_text(content, encoding="utf-8")
    assert load_rows(str(tmp_path / file)).to_list() == [
        {"prompt": "a", "completion": "b"},
        {"prompt": "c", "completion": "d"},
    ]
    logged(caplog, tmp_path / file, "odd")


def test_the_rows_of_a_file_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run finds them in the cache, keyed by the digest of the content."""
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt,completion\na,{tmp_path}\n", encoding="utf-8")
    first = load_rows(str(path))
    path.rename(tmp_path / "moved.csv")
    monkeypatch.setattr("spin_trl.data.reading.csv_text.CsvRows", None)
    again = load_rows(str(tmp_path / "moved.csv"))
    assert again[:] == first[:]
    assert again._fingerprint == first._fingerprint


@pytest.mark.parametrize("name", ["rows.arrow", "remarks.json", "cache-*.arrow"])
@pytest.mark.parametrize("damage", ["bit", "cut", "nothing", "gone"])
def test_a_damaged_cache_is_made_again(
    name: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache has the rows read from a file, the messages about them, and the rows prepared from them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.sft(5))

    def rows() -> list[Any]:
        return prepare(load_rows(str(path)), PairTemplate(tiny.tokenizer())).to_list()

    expected = rows()
    (file,) = (tmp_path / "cache" / "spin_trl").glob(f"*/{name}")
    content = file.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    harmed = {"bit": flipped, "cut": content[:middle], "nothing": b""}
    if damage in harmed:
        file.write_bytes(harmed[damage])
    else:
        file.unlink()
    assert rows() == expected
    assert file.read_bytes() == content
