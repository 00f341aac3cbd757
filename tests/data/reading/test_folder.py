"""Folders of data files, and snapshots of Hub datasets, are read as `datasets` reads them."""

import contextlib
import gzip
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from datasets import Dataset

from messages import names, refused
from spin_trl.data.load import load_rows
from spin_trl.errors import DataError
from spin_trl.run.ownership import Ownership


def line(answer: str) -> str:
    """Return a row as a line of JSON."""
    return json.dumps({"prompt": "2024-01-01", "completion": answer}) + "\n"


def answers(folder: Path, **options: str) -> list[str]:
    """Return the completions of a folder's rows."""
    return load_rows(str(folder), **options)["completion"][:]


def test_all_files_of_a_folder_are_read(tmp_path: Path) -> None:
    """Files are read in the order of their names, and strings stay strings."""
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(line(name), encoding="utf-8")
    assert answers(tmp_path) == ["a", "b"]
    assert load_rows(str(tmp_path))[0]["prompt"] == "2024-01-01"


def test_a_run_in_the_folder_of_its_data_is_no_data(tmp_path: Path) -> None:
    """The run's journal, samples and generations could be read as rows, but are skipped."""
    (tmp_path / "train.jsonl").write_text(line("a"), encoding="utf-8")
    run = tmp_path / "out"
    Ownership(run).claim()
    assert answers(tmp_path) == ["a"]
    (run / "iteration-0").mkdir()
    for name in ("journal.jsonl", "iteration-0/samples.jsonl", "train.jsonl"):
        (run / name).write_text(line("b"), encoding="utf-8")
    Dataset.from_list([{"ids": [1]}]).to_parquet(run / "iteration-0" / "shard-00000.parquet")
    assert answers(tmp_path) == ["a"]


def test_a_run_of_version_0_1_0_in_the_folder_of_its_data_is_no_data(tmp_path: Path) -> None:
    """Such a run has no marker. A user's own file with the same name as the journal is still data."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "journal.jsonl").write_text(line("a"), encoding="utf-8")
    with tarfile.open(Path(__file__).parents[1] / "runs-0.1.0" / "full-generated.tar.gz") as archive:
        archive.extractall(tmp_path / "earlier", filter="data")
    for name in ("train.jsonl", "recipe.yaml"):  # the data that the run was started from
        (tmp_path / "earlier" / name).unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "earlier" / "model")
    assert answers(tmp_path) == ["a"]


def test_names_of_files_say_the_split(tmp_path: Path) -> None:
    """File names assign splits by the conventions of `datasets`, including its names for parts of a split."""
    (tmp_path / "train.jsonl").write_text(line("a") + line("b"), encoding="utf-8")
    (tmp_path / "validation.jsonl").write_text(line("c"), encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not data", encoding="utf-8")
    assert answers(tmp_path) == ["a", "b"]
    assert answers(tmp_path, split="validation") == ["c"]
    assert answers(tmp_path, split="train[:50%]") == ["a"]
    assert answers(tmp_path, split="train[1:]+validation") == ["b", "c"]
    with refused(DataError, tmp_path, "'test'", "['train', 'validation']"):
        load_rows(str(tmp_path), split="test")
    with refused(DataError, tmp_path, "'train[:x]'"):
        load_rows(str(tmp_path), split="train[:x]")


@pytest.mark.parametrize(
    "name", ["train.csv", "train.tsv", "train.jsonl.gz", "train.json", "data/train-00000-of-00001.parquet"]
)
@pytest.mark.parametrize("folder", ["plain", "odd[1] *{x}"])
def test_every_format_may_lie_in_a_folder(name: str, folder: str, tmp_path: Path) -> None:
    """CSV cells stay text; the folder's name may contain glob characters."""
    path = tmp_path / folder / name
    path.parent.mkdir(parents=True)
    content = {
        ".csv": b"prompt,completion\na,007\n",
        ".tsv": b"prompt\tcompletion\na\t007\n",
        ".gz": gzip.compress(line("007").encode()),
        ".json": f"[{line('007')}]".encode(),
    }.get(path.suffix)
    if content is None:
        Dataset.from_list([{"prompt": "a", "completion": "007"}]).to_parquet(tmp_path / "rows")
        content = (tmp_path / "rows").read_bytes()
    path.write_bytes(content)
    assert answers(tmp_path / folder) == ["007"]


def test_a_changed_folder_with_an_odd_name_is_read_again(tmp_path: Path) -> None:
    """The folder is reached through links, which are followed."""
    folder = tmp_path / "odd[1]"
    folder.mkdir()
    (folder / "a.jsonl").write_text(line("a"), encoding="utf-8")
    assert answers(folder) == ["a"]
    (folder / "a.jsonl").rename(folder / "b.jsonl")
    (folder / "c.jsonl").write_text(line("c"), encoding="utf-8")
    assert answers(folder) == ["a", "c"]


README = """---
configs:
- config_name: red
  data_files:
  - split: train
    path: r/*.csv
  sep: ";"
- config_name: blue
  data_files: b/rows.csv
---
# A dataset
"""


def test_configurations_are_those_of_the_readme(tmp_path: Path) -> None:
    """If there are several, the user has to choose one."""
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    for folder, content in (("r", "prompt;completion, long\na;1\n"), ("b", "prompt,completion\na,2\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.csv").write_text(content, encoding="utf-8")
    assert load_rows(str(tmp_path), "red")[0] == {"prompt": "a", "completion, long": "1"}
    assert load_rows(str(tmp_path), "blue")[0] == {"prompt": "a", "completion": "2"}
    with refused(DataError, tmp_path, "['red', 'blue']", "`dataset_config`"):
        load_rows(str(tmp_path))


def test_a_snapshot_of_a_hub_dataset_is_read(tmp_path: Path) -> None:
    """A snapshot's files are links to blobs."""
    snapshot, blobs = (
        tmp_path / "datasets--org--name" / "snapshots" / "abc",
        tmp_path / "datasets--org--name" / "blobs",
    )
    (snapshot / "data").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_text(line("a"), encoding="utf-8")
    (snapshot / "data" / "train-00000-of-00001.jsonl").symlink_to("../../../blobs/123")
    assert answers(snapshot) == ["a"]
    old = snapshot.parent / "old"
    old.mkdir()
    (old / "train.jsonl").write_text(line("old"), encoding="utf-8")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc", encoding="utf-8")
    assert answers(snapshot.parents[1]) == ["a"]


def test_a_bad_line_of_a_file_in_a_folder_is_named(tmp_path: Path) -> None:
    """This includes compressed files."""
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress((line("a") + "bad\n").encode()))
    with refused(DataError, "train.jsonl.gz, line 2", "JSON"):
        load_rows(str(tmp_path))


def test_a_folder_of_other_files_is_answered_with_what_is_read(tmp_path: Path) -> None:
    """Text files are refused, since they contain no responses; the message lists the formats that are read."""
    (tmp_path / "a.txt").write_text("hello", encoding="utf-8")
    with refused(DataError, tmp_path, "(text)", ".jsonl"):
        load_rows(str(tmp_path))


def test_data_files_of_a_folder_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The message names files in other formats, and files without a split in their names next to files with one, but
    not files that are no data.
    """
    for name in ("train.jsonl", "test.jsonl", ".hidden.jsonl"):
        (tmp_path / name).write_text(line(name), encoding="utf-8")
    (tmp_path / "README.md").write_text("About it.", encoding="utf-8")
    (tmp_path / "dataset_info.json").write_text("{}", encoding="utf-8")
    assert answers(tmp_path) == ["train.jsonl"]
    assert caplog.messages == []
    (tmp_path / "more.jsonl").write_text(line("more"), encoding="utf-8")
    (tmp_path / "other.csv").write_text("prompt,completion\na,b\n", encoding="utf-8")
    assert answers(tmp_path) == ["train.jsonl"]
    assert names(caplog.text, tmp_path, "more.jsonl", "1 more")
    caplog.clear()
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: more.jsonl\n---\n", "utf-8"
    )
    assert answers(tmp_path) == ["more"]
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["/proc", "/proc/self", "/sys", "/dev", "/"])
def test_a_folder_of_the_system_holds_no_data(name: str, tmp_path: Path) -> None:
    """Searching one would take hours, if it ended at all; a link to one is refused too."""
    with refused(DataError, name):
        load_rows(name)
    (tmp_path / "link").symlink_to(name)
    with refused(DataError, tmp_path / "link"):
        load_rows(str(tmp_path / "link"))


@pytest.mark.parametrize(
    "front_matter",
    [
        "\tconfigs: [",
        "configs: 3",
        "configs: [3]",
        "configs: [null]",
        "configs: [{config_name: []}]",
        "dataset_info: 3",
    ],
)
def test_a_readme_that_says_no_configurations_is_refused_or_passed_over(front_matter: str, tmp_path: Path) -> None:
    """`datasets` assumes that the configurations have the right shape."""
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    (tmp_path / "README.md").write_text(f"---\n{front_matter}\n---\n", encoding="utf-8")
    with contextlib.suppress(DataError):
        assert len(load_rows(str(tmp_path))) == 1
