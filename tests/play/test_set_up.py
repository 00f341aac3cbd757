"""A run claims its directory, and checks settings, start and data before its first phase."""

import errno
import json
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM

import tiny
from messages import refused
from runs import build, contents, entry, steps, tensors, weights
from spin_trl.errors import DataError, RunDirectoryError
from spin_trl.run.directory import RunDirectory


def test_an_existing_run_may_be_refused_or_overwritten(llama_folder: Path) -> None:
    """`existing_run` decides between continue (the default), fail, and overwrite, which removes everything of the old
    run.
    """
    build(llama_folder, num_iterations=2, seed=1).run()
    with refused(RunDirectoryError, "run", "`existing_run`", "`fail`"):
        build(llama_folder, num_iterations=2, seed=1, existing_run="fail").run()
    build(llama_folder, num_iterations=1, seed=2, existing_run="overwrite").run()
    assert not Path("run/iteration-1").exists()
    assert [line for line in steps() if line[0] == "train"] == [("train", "iteration-0")]
    assert yaml.safe_load(Path("run/recipe.yaml").read_text(encoding="utf-8"))["seed"] == 2


@pytest.mark.slow
def test_overwriting_spares_what_no_run_has_written(llama_folder: Path) -> None:
    """Other files in the folder are kept, even if they have a name that the run would use."""
    build(llama_folder, num_iterations=1).run()
    Path("run/paper").mkdir()
    Path("run/paper/thesis.tex").write_text("years of work", encoding="utf-8")
    Path("run/hub").mkdir()
    Path("run/hub/notes.md").write_text("mine", encoding="utf-8")
    build(llama_folder, num_iterations=1, existing_run="overwrite", seed=2).run()
    assert Path("run/paper/thesis.tex").read_text(encoding="utf-8") == "years of work"
    assert [path.name for path in Path("run/hub").iterdir()] == ["notes.md"]
    assert yaml.safe_load(Path("run/recipe.yaml").read_text(encoding="utf-8"))["seed"] == 2
    owned = set(json.loads(Path("run/.spin_trl.json").read_text(encoding="utf-8"))["entries"].values())
    there = {path.name for path in Path("run").iterdir()}
    assert there == {*owned, "paper", "hub", ".lock", ".phase.lock", ".spin_trl.json"}


def test_a_run_does_not_begin_in_a_folder_with_other_files(llama_folder: Path) -> None:
    """Nothing is written there, not even a lock, and nothing is removed, for every value of `existing_run`."""
    Path("run").mkdir()
    Path("run/recipe.yaml").write_text("learning_rate: 1.0", encoding="utf-8")
    Path("run/data").mkdir()
    for existing in ("continue", "overwrite", "fail"):
        with refused(RunDirectoryError, "data/", "recipe.yaml", "`run_dir`", "run-2"):
            build(llama_folder, num_iterations=1, existing_run=existing).run()
        with refused(RunDirectoryError, "data/", "recipe.yaml"):
            build(llama_folder, num_iterations=1, existing_run=existing).run_phase("start", 0)
    assert sorted(path.name for path in Path("run").iterdir()) == ["data", "recipe.yaml"]


@pytest.mark.slow
def test_how_a_run_is_shown_may_change(llama_folder: Path) -> None:
    """Settings that don't affect the results may differ when a run is resumed."""
    build(llama_folder, num_iterations=1).run()
    build(llama_folder, num_iterations=2, disable_tqdm=False, keep_iterations=1, dataloader_num_workers=0).run()
    assert ("train", "iteration-1") in steps()


def test_what_can_not_be_a_run_directory_is_refused(llama_folder: Path) -> None:
    """It may be a file, a path below one, or a directory whose settings can't be read."""
    Path("file").write_text("mine", encoding="utf-8")
    for run_dir, number in (("file", errno.EEXIST), ("file/run", errno.ENOTDIR)):
        with refused(RunDirectoryError, run_dir, f"Errno {number}"):
            build(llama_folder, run_dir, num_iterations=1).run()
    assert Path("file").read_text(encoding="utf-8") == "mine"
    Path("run").mkdir()
    for text in ("a: [", "- a"):
        Path("run/recipe.yaml").write_text(text, encoding="utf-8")
        with refused(RunDirectoryError, "recipe.yaml"):
            build(llama_folder, num_iterations=1).run()


def test_changed_data_stops_the_run(llama_folder: Path) -> None:
    """An added row or a changed word, in the training or the held-out data, is reported before anything runs."""
    held_out = tiny.sft(20).select(range(15, 20))
    build(llama_folder, num_iterations=1, eval_dataset=held_out).run()
    before = contents("run")
    changed = Dataset.from_list([{**row, "completion": row["completion"] + "!"} for row in tiny.sft(15)])
    known = entry("prepare", "data")
    for name, kwargs in (
        ("dataset", {"train_dataset": tiny.sft(16)}),
        ("dataset", {"train_dataset": changed}),
        ("held_out_dataset", {"eval_dataset": held_out.select(range(4))}),
    ):
        with refused(DataError, "run", f"{name}:", known[name]):
            build(llama_folder, num_iterations=2, **{"eval_dataset": held_out, **kwargs}).run()
    assert contents("run") == before


@pytest.mark.slow
def test_a_model_object_is_kept_and_recognised(llama_folder: Path) -> None:
    """A model in memory becomes the run's start; the run can't be resumed with another one."""
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    build(model, num_iterations=1, processing_class=tiny.tokenizer()).run()
    start = tensors("run/start/model")
    assert all(torch.equal(start[name], tensor) for name, tensor in model.state_dict().items() if name in start)
    assert weights("run/iteration-0/model") != weights("run/start/model")
    with refused(RunDirectoryError, "run", "`model`"):
        build(tiny.model(seed=9), num_iterations=2, processing_class=tiny.tokenizer()).run()
    build(
        AutoModelForCausalLM.from_pretrained(llama_folder), num_iterations=2, processing_class=tiny.tokenizer()
    ).run()
    assert ("train", "iteration-1") in steps()


@pytest.mark.slow
def test_a_model_object_plays_as_its_folder_does(llama_folder: Path) -> None:
    """The object itself is not changed."""
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    build(model, "object", num_iterations=1).run()
    build(llama_folder, "folder", num_iterations=1).run()
    assert weights("object/iteration-0/model") == weights("folder/iteration-0/model")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_two_processes_can_not_play_one_run(llama_folder: Path) -> None:
    """The second is refused while the first is running, and may resume the run once that has ended."""
    with RunDirectory("run").locked(), refused(RunDirectoryError, "process", "run", "run_dir"):
        build(llama_folder, num_iterations=1).run()
    build(llama_folder, num_iterations=1).run()
