"""Settings that name files are relative to where they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spin_trl import SPINConfig
from spin_trl.config.paths import found_from, is_same_path, output_folder


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Return a folder with a data file and a model, which is not the current one."""
    folder = tmp_path / "there"
    (folder / "model").mkdir(parents=True)
    (folder / "rows.jsonl").touch()
    return folder


def test_relative_paths_of_another_folder_lead_there(there: Path) -> None:
    """This applies only to paths: a name on the Hub is unchanged, and so are settings that are not paths."""
    written = {
        "dataset_name": "rows.jsonl", "model_name_or_path": "org/model", "held_out_name": "~/rows.jsonl",
        "deepspeed": "/etc/ds.json", "run_name": "model", "learning_rate": 1e-6, "accelerate_config": None,
    }  # fmt: skip
    found = found_from(there, written)
    assert found == {**written, "dataset_name": str(there / "rows.jsonl")}
    assert written["dataset_name"] == "rows.jsonl"


def test_a_configuration_is_a_path_only_for_a_function(there: Path) -> None:
    """The configuration of a Hub dataset keeps its name, even if a folder here has the same name."""
    written = {"dataset_name": "spin_trl.data.published.svamp:load_svamp", "dataset_config": "model"}
    assert found_from(there, written) == {**written, "dataset_config": str(there / "model")}
    on_the_hub = {"dataset_name": "org/data", "dataset_config": "model", "test_config": "model"}
    assert found_from(there, on_the_hub) == on_the_hub


def test_the_run_directory_need_not_be_there_yet(there: Path) -> None:
    assert found_from(there, {"run_dir": "runs/a"}) == {"run_dir": str(there / "runs/a")}
    assert found_from(there, {"run_dir": "/runs/a"}) == {"run_dir": "/runs/a"}


def test_the_model_of_a_run_from_python_is_found_too(there: Path) -> None:
    found = found_from(there, {"python": {"model": "model", "peft_config": None}})
    assert found == {"python": {"model": str(there / "model"), "peft_config": None}}


def test_from_the_current_folder_nothing_changes(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(there)
    assert found_from(there, {"dataset_name": "rows.jsonl", "run_dir": "a"}) == {
        "dataset_name": "rows.jsonl",
        "run_dir": "a",
    }


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ("rows.jsonl", "{there}/rows.jsonl", True),
        ("../there/rows.jsonl", "{there}/model/../rows.jsonl", True),
        ("link.jsonl", "{there}/rows.jsonl", True),
        ("rows.jsonl", "rows.jsonl", True),
        ("rows.jsonl", "{there}/model", False),
        ("org/model", "org/model", True),
        ("org/model", "org/other", False),
        ("gone.jsonl", "{there}/gone.jsonl", False),  # they can't be known to be the same
        (None, None, True),
        (3, "3", False),
        ("a\0b", "a\0b", True),
    ],
)
def test_one_file_has_many_names(before: Any, now: Any, expected: bool, there: Path) -> None:
    (there / "link.jsonl").symlink_to(there / "rows.jsonl")
    now = now.format(there=there) if isinstance(now, str) else now
    assert is_same_path(before, now, there) is expected


def test_the_home_is_seen_in_both(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(there))
    assert is_same_path("~/rows.jsonl", str(there / "rows.jsonl"), None)
    assert is_same_path("rows.jsonl", "~/rows.jsonl", there)


def test_the_output_folder_is_there_where_none_was_given() -> None:
    args = SPINConfig(use_cpu=True, bf16=False)
    assert output_folder(args) == Path(str(args.output_dir))
