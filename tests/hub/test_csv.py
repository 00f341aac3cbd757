"""CSV on the Hub is read like a CSV file: cells are text exactly as written."""

from pathlib import Path

import datasets.config
import pytest
from huggingface_hub import HfApi, constants

from hub.server import LocalHub
from messages import refused
from spin_trl.data.load import load_rows
from spin_trl.errors import DataError

NAME = "someone/table"
CELLS = ["007", "1.50", "NA", "None", "", "2024-01-01"]


@pytest.fixture
def table(hub: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalHub:
    """Return a dataset of CSV files, with separate caches for this test."""
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    api = HfApi(endpoint=hub.url)
    api.create_repo(NAME, repo_type="dataset")
    files = {
        "train.csv": "prompt;completion\n" + "".join(f"q;{cell}\n" for cell in CELLS),
        "test.csv": "prompt;completion\nq;0\n;\n",
    }
    for path, content in files.items():
        api.upload_file(path_or_fileobj=content.encode(), path_in_repo=path, repo_id=NAME, repo_type="dataset")
    return hub


@pytest.mark.usefixtures("table")
def test_cells_are_text_as_in_a_file() -> None:
    """This holds in every split, with the separator found in the header."""
    assert load_rows(NAME)["completion"][:] == CELLS
    assert load_rows(NAME, split="test").to_list() == [{"prompt": "q", "completion": "0"}]
    assert load_rows(NAME, split="train[:2]")["completion"][:] == CELLS[:2]
    with refused(DataError, NAME, "'dev'", ["train", "test"], "`dataset_train_split`"):
        load_rows(NAME, split="dev")


def test_what_was_fetched_is_read_without_the_hub(table: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_rows(NAME)["completion"][:] == CELLS
    table.fail(".*", times=-1, status=None)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_rows(NAME)["completion"][:] == CELLS
    with refused(DataError, "'someone/other'", "Hub", "OfflineModeIsEnabled"):
        load_rows("someone/other")
