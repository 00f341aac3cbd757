"""Where a run's model and data come from: names on the Hub with their commits, and no path of this machine."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset
from huggingface_hub import constants

import tiny
from spin_trl.lineage import Origin, dataset_origin, model_origin, origin_from

SHA = "0123456789abcdef0123456789abcdef01234567"


def test_a_hub_models_commit_is_the_one_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.hub_cache(tmp_path / "hub", {"org/base": "llama"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    commit = (folder / "models--org--base" / "refs" / "main").read_text(encoding="utf-8")
    assert model_origin("org/base") == Origin("org/base", on_hub=True, commit=commit)
    assert model_origin("org/base", SHA).commit == SHA, "a revision that is a commit is the commit"
    assert model_origin("org/other") == Origin("org/other", on_hub=True)


def test_a_local_model_is_its_name_and_its_root(tmp_path: Path) -> None:
    """Through the whole chain of folders."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, base in ((first, "org/base"), (second, str(first))):
        folder.mkdir()
        (folder / "README.md").write_text(f"---\nbase_model: {base}\n---\n", encoding="utf-8")
    assert model_origin(str(second)) == Origin("second", base="org/base")
    assert model_origin(str(second)).root == "org/base"
    (tmp_path / "bare").mkdir()
    assert model_origin(str(tmp_path / "bare")).root is None


def test_a_hub_dataset_names_its_commit() -> None:
    """`datasets` keeps the addresses of the files that it loaded."""
    url = f"hf://datasets/org/data@{SHA}/data/train-00000.parquet"
    loaded = SimpleNamespace(info=SimpleNamespace(download_checksums={url: {"num_bytes": 1}}))
    assert dataset_origin(loaded, "org/data") == Origin("org/data", on_hub=True, commit=SHA)
    assert dataset_origin(loaded) == Origin("org/data", on_hub=True, commit=SHA), "also if given from Python"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/home/me/secret/train.jsonl", Origin("train.jsonl")),
        ("package.module:function", Origin("package.module:function")),
        ("org/data", Origin("org/data", on_hub=True)),
        (None, None),
    ],
)
def test_other_data_is_named_without_its_path(name: str | None, expected: Origin | None) -> None:
    assert dataset_origin(Dataset.from_list([{"a": 1}]), name) == expected


def test_an_origin_outlives_the_journal() -> None:
    origin = Origin("org/data", on_hub=True, commit=SHA)
    assert origin_from(origin.as_dict()) == origin
    assert origin_from({}) is None
    assert origin_from("org/data") is None
