"""Cases in which a run met files of the user's: they are not changed or moved."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import pytest
from datasets import load_from_disk

from cases.playing import Command, chats, save_dataset, sides, write_recipe, write_rows
from messages import names
from runs import contents, steps


def test_overwrite_leaves_files_that_the_run_has_not_written(
    command: Command, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug class: `overwrite_output_dir` or a clean-up removes a project's own data and notes along with the old output."""
    project = Path("project")
    write_rows(project / "data/train.jsonl", chats())
    (project / "hub").mkdir()
    (project / "hub/notes.md").write_text("my notes", encoding="utf-8")
    write_recipe(project / "recipe.yaml", llama_folder, "data/train.jsonl")
    monkeypatch.chdir(project)
    before = contents(".")
    said = command("run", "recipe.yaml", "--run_dir", ".", "--existing_run", "overwrite")
    assert said.code == 2
    assert names(said.text, "data/", "hub/", "`run_dir`")
    assert contents(".") == before


def test_overwrite_of_a_run_leaves_what_was_added_to_its_folder(
    command: Command, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same class: the folder is the run's own, and the user has put notes and a recipe there."""
    Path("mine").mkdir()
    monkeypatch.chdir("mine")
    write_rows(Path("../train.jsonl"), chats())
    write_recipe("recipe.yaml", llama_folder, "../train.jsonl")
    assert command("start", "recipe.yaml", "--run_dir", ".").code == 0
    Path("hub").mkdir()
    Path("hub/notes.md").write_text("my notes", encoding="utf-8")
    recipe = Path("recipe.yaml").read_bytes()
    assert command("start", "recipe.yaml", "--run_dir", ".", "--existing_run", "overwrite").code == 0
    assert steps(".") == [("prepare", "data"), ("evaluate", "start")]
    assert Path("hub/notes.md").read_text(encoding="utf-8") == "my notes"
    assert Path("recipe.yaml").read_bytes() == recipe


def test_prepared_rows_are_not_written_over_a_users_dataset(
    command: Command, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug class: a tool's working folder has the same name as the user's, such as `data/train`, and is overwritten."""
    project = Path("project")
    save_dataset(project / "data/train", chats(8))
    write_recipe(project / "my.yaml", llama_folder)
    monkeypatch.chdir(project)
    before = contents("data")
    assert command("run", "my.yaml", "--run_dir", ".").code == 2
    assert contents("data") == before
    assert load_from_disk("data/train")["messages"][:] == [row["messages"] for row in chats(8)]


@pytest.mark.parametrize("kind", ["saved", "file"])
def test_a_dataset_in_a_folder_that_is_read_only_is_played(
    kind: str, command: Command, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug class: `map` and `filter` write their caches next to the dataset, and fail on a read-only share.

    Root, as which tests run in containers, can write everywhere, so the test checks that nothing is written.
    """
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shared = Path("shared")
    data = save_dataset(shared, chats()) if kind == "saved" else write_rows(shared / "train.jsonl", chats())
    before = contents(shared)
    for folder in (*(path for path in shared.rglob("*") if path.is_dir()), shared):
        folder.chmod(0o555)
    try:
        said = command("start", write_recipe("my.yaml", llama_folder, data))
        assert said.code == 0, said.text
        assert contents(shared) == before
    finally:
        shared.chmod(0o755)
    assert len([*sides("runs/my")[0], *sides("runs/my")[1]]) == 6


def test_output_dir_is_the_run_directory(command: Command, llama_folder: Path) -> None:
    """Bug class: a setting that every recipe of a similar tool has is accepted and does nothing."""
    assert command("start", write_recipe("my.yaml", llama_folder, output_dir="out/exp1")).code == 0
    assert steps("out/exp1") == [("prepare", "data"), ("evaluate", "start")]
    assert not Path("runs").exists()


def test_output_dir_gives_way_to_run_dir_and_to_a_run_that_is_there(command: Command, llama_folder: Path) -> None:
    """The same class: `run_dir` is more specific, and a run of this recipe in `runs` is resumed, with a message."""
    assert command("start", write_recipe("my.yaml", llama_folder)).code == 0
    said = command("generate", write_recipe("my.yaml", llama_folder, output_dir="out/exp1"))
    assert said.code == 0
    assert names(said.text, "runs/my", "`output_dir`", "out/exp1")
    assert steps("runs/my")[-1] == ("generate", "iteration-0")
    both = write_recipe("other.yaml", llama_folder, output_dir="out/exp1", run_dir="out/exp2")
    assert command("start", both).code == 0
    assert sorted(os.listdir("out")) == ["exp2"]


def test_the_same_data_and_model_by_other_paths_continue_a_run(
    command: Command, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug class: a run can't be resumed from another folder, because the paths are compared and not their targets."""
    Path("model").symlink_to(llama_folder)
    recipe = write_recipe("my.yaml", "model")
    assert command("generate", recipe).code == 0
    Path("other").mkdir()
    monkeypatch.chdir("other")
    paths = ["--dataset_name", str(tmp_path / "my.jsonl"), "--model_name_or_path", str(tmp_path / "model")]
    again = ["../my.yaml", "--run_dir", str(tmp_path / "runs/my"), *paths, "--num_iterations", "2"]
    said = command("train", *again)
    assert said.code == 0, said.text
    assert command("generate", *again, "--iteration", "1").code == 0
    assert steps(tmp_path / "runs/my") == [
        ("prepare", "data"),
        ("generate", "iteration-0"),
        ("train", "iteration-0"),
        ("generate", "iteration-1"),
    ]


def test_other_data_by_another_path_does_not_continue_a_run(command: Command, llama_folder: Path) -> None:
    """The same class: the paths have different targets. The message does not suggest overwriting the run."""
    recipe = write_recipe("my.yaml", llama_folder)
    assert command("start", recipe).code == 0
    other = write_rows("other.jsonl", chats(7))
    said = command("start", recipe, "--dataset_name", other)
    assert said.code == 2
    assert names(said.text, "runs/my", "dataset:")
    assert "overwrite" not in said.text
