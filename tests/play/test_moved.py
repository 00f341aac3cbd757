"""A run directory that was moved or copied can be resumed, to the same bytes, and its adapters load with PEFT alone."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import tiny
from messages import names, refused
from runs import answers, build, contents, steps, weights
from spin_trl.errors import RunDirectoryError
from spin_trl.files import read_json, write_json
from spin_trl.models.adapters import base_of
from spin_trl.run import adapter_bases, checkpoint
from spin_trl.run.adapter_bases import adapter_configs, follow, named_base, set_base
from spin_trl.run.directory import RunDirectory
from spin_trl.training.trainer import SPINTrainer

FIGURES = ("metrics.json", "samples.jsonl", "histograms.json")


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


WAYS: dict[str, dict[str, Any]] = {
    "kept start": {},
    "kept adapter": {},
    "merge": {"lora_opponent": "merge"},
    "full": {"baseline": "sft"},
    "full, kept start": {"on_regression": "fall_back", "history": 1},
}
"""Kinds of bases in the run directory: a start that was passed, one with an adapter whose base is on no disk, none. With
full weights, the start is next to the run directory, or was passed."""


def play(way: str, folder: Path, run_dir: Path, num_iterations: int) -> None:
    """Play a run of a tiny model, with an adapter or with full weights."""
    options = {**WAYS[way], "num_iterations": num_iterations}
    if way == "merge":
        build(folder, run_dir, peft_config=lora(), **options).run()
    elif way == "full":
        build(folder, run_dir, **options).run()
    elif way == "full, kept start":
        build(tiny.model(), run_dir, processing_class=tiny.tokenizer(), **options).run()
    elif way == "kept start":
        build(tiny.model(), run_dir, processing_class=tiny.tokenizer(), peft_config=lora(), **options).run()
    else:
        torch.manual_seed(0)
        model = get_peft_model(tiny.model(), lora())
        build(model, run_dir, processing_class=tiny.tokenizer(), **options).run()


def bases(run_dir: Path) -> list[Path]:
    """Return the base models named by a run's adapters."""
    return [Path(named_base(config)) for config in adapter_configs(RunDirectory(run_dir))]


def test_an_adapter_names_its_base_by_an_absolute_path(llama_folder: Path, tmp_path: Path) -> None:
    """However the recipe names it, PEFT alone loads it, from any folder."""
    build(os.path.relpath(llama_folder), "run", peft_config=lora(), num_iterations=1, baseline="sft").run()
    configs = list(adapter_configs(RunDirectory("run")))
    assert [named_base(config) for config in configs] == [str(llama_folder.resolve())] * 2
    model = configs[0].parent.resolve()
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    AutoPeftModelForCausalLM.from_pretrained(model)


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=() if way == "kept adapter" else pytest.mark.slow) for way in WAYS]
)
def test_a_moved_run_goes_on_to_the_same_bytes(way: str, llama_folder: Path, tmp_path: Path) -> None:
    """Moved after its last iteration and continued, it reaches the same bytes as a run that was not moved. Its adapters use
    a base in the directory, at its new path."""
    whole, there, here = (tmp_path / name for name in ("whole", "there", "here"))
    play(way, llama_folder, whole, 2)
    play(way, llama_folder, there, 1)
    there.rename(here)
    play(way, llama_folder, here, 2)
    assert steps(here) == steps(whole)
    if way == "full":
        for t in range(2):
            arm = f"baseline/sft/iteration-{t}/model"
            assert weights(here / arm) == weights(whole / arm)
    for stage in ("iteration-0", "iteration-1"):
        assert weights(here / stage / "model") == weights(whole / stage / "model")
        assert answers(here, stage) == answers(whole, stage)
        assert all((here / stage / name).read_bytes() == (whole / stage / name).read_bytes() for name in FIGURES)
    assert RunDirectory(here).best_link.resolve() == here / read_json(here / "best.json")["stage"] / "model"
    assert len(bases(here)) == {"kept start": 2, "kept adapter": 3}.get(way, 0)
    assert all(base.is_relative_to(here) and base.is_dir() for base in bases(here))


SAVES = {"save_strategy": "steps", "save_steps": 1}


def play_saving(way: str, folder: Path, run_dir: Path) -> None:
    """Play two iterations with a checkpoint at every step, from a start next to the run directory, or one that was
    passed.
    """
    if way == "full":
        build(folder, run_dir, **SAVES).run()
    else:
        build(tiny.model(), run_dir, processing_class=tiny.tokenizer(), peft_config=lora(), **SAVES).run()


@pytest.mark.parametrize("with_original", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["copied", "moved"])
@pytest.mark.parametrize("way", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_training_that_was_moved_in_its_middle_goes_on_to_the_same_bytes(
    way: str, with_original: bool, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It resumes from its newest checkpoint, at the new path. An original that still exists is neither read nor written."""
    whole, there, here = (tmp_path / name for name in ("whole", "there", "here"))
    play_saving(way, llama_folder, whole)
    write, resumed = checkpoint.write_manifest, []

    def interrupted(folder: Path, *arguments: Any) -> None:
        write(folder, *arguments)
        if folder == there / "iteration-1" / "train" / "checkpoint-2":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_manifest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            play_saving(way, llama_folder, there)
    shutil.copytree(there, here, symlinks=True)
    if with_original:
        original = contents(there)
        for weights_file in there.rglob("*.safetensors"):
            weights_file.write_bytes(b"")  # reading them fails
    else:
        shutil.rmtree(there)
    train = SPINTrainer.train

    def spy(trainer: SPINTrainer, resume_from_checkpoint: Any = None, **options: Any) -> Any:
        resumed.append(resume_from_checkpoint)
        return train(trainer, resume_from_checkpoint=resume_from_checkpoint, **options)

    monkeypatch.setattr(SPINTrainer, "train", spy)
    play_saving(way, llama_folder, here)
    assert resumed == [str(here / "iteration-1" / "train" / "checkpoint-2")]
    assert steps(here) == steps(whole)
    for stage in ("iteration-0", "iteration-1"):
        assert weights(here / stage / "model") == weights(whole / stage / "model")
        assert answers(here, stage) == answers(whole, stage)
    if with_original:
        assert original.keys() == contents(there).keys()


def test_a_start_with_an_adapter_outside_the_run_is_followed_by_nothing(llama_folder: Path, tmp_path: Path) -> None:
    """The run is moved, or its copy is resumed; the adapter that it started from, and that adapter's base, are not moved."""
    torch.manual_seed(0)
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama_folder), lora()).save_pretrained(tmp_path / "adapter")
    tiny.tokenizer().save_pretrained(tmp_path / "adapter")
    whole, there, here = (tmp_path / name for name in ("whole", "there", "here"))
    build(tmp_path / "adapter", whole).run()
    build(tmp_path / "adapter", there, num_iterations=1).run()
    users = contents(tmp_path / "adapter")
    there.rename(here)
    build(tmp_path / "adapter", here).run()
    assert weights(here / "iteration-1" / "model") == weights(whole / "iteration-1" / "model")
    assert bases(here) == [llama_folder] * 2
    assert contents(tmp_path / "adapter") == users


@pytest.mark.slow
def test_a_project_is_moved_with_its_start(llama_folder: Path, tmp_path: Path) -> None:
    """The start is next to the run directory, and is named relative to where both are now."""
    (tmp_path / "project").mkdir()
    shutil.copytree(llama_folder, tmp_path / "project" / "start")
    build(tmp_path / "project" / "start", tmp_path / "project" / "run", peft_config=lora(), num_iterations=1).run()
    (tmp_path / "project").rename(tmp_path / "renamed")
    build(tmp_path / "renamed" / "start", tmp_path / "renamed" / "run", peft_config=lora()).run()
    assert bases(tmp_path / "renamed" / "run") == [tmp_path / "renamed" / "start"] * 2
    build(llama_folder, tmp_path / "whole", peft_config=lora()).run()
    for stage in ("iteration-0", "iteration-1"):
        moved = tmp_path / "renamed" / "run" / stage / "model"
        assert weights(moved) == weights(tmp_path / "whole" / stage / "model")
        AutoPeftModelForCausalLM.from_pretrained(moved)


def test_a_copy_is_on_its_own_base(tmp_path: Path, llama_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """This holds even if the original still exists, which is not changed. The changes are reported once, in one line."""
    one, other = tmp_path / "one", tmp_path / "other"
    play("kept start", llama_folder, one, 1)
    shutil.copytree(one, other, symlinks=True)
    original = contents(one)
    assert base_of(other / "iteration-0" / "model") == str(other / "start" / "model")
    for _ in range(2):
        play("kept start", llama_folder, other, 1)
    assert bases(other) == [other / "start" / "model"]
    assert contents(one) == original
    said = [message for message in caplog.messages if names(message, str(other), str(one), "1 adapter")]
    assert len(said) == 1
    AutoPeftModelForCausalLM.from_pretrained(other / "iteration-0" / "model")


def run_with_adapters(path: Path, base: str) -> RunDirectory:
    """Return a run directory with two adapters on a user's base that is inside it."""
    directory = RunDirectory(path)
    directory.ownership.claim()
    directory.ownership.note_place()
    tiny.save(path / "users-own")
    for stage in ("iteration-0", "iteration-1"):
        model = directory.own(stage) / "model"
        model.mkdir(parents=True)
        write_json(model / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": base})
    return directory


def test_an_interrupted_move_is_finished_wherever_the_run_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed between two files, and moved again."""
    run_with_adapters(tmp_path / "a", str(tmp_path / "a" / "users-own"))
    (tmp_path / "a").rename(tmp_path / "b")
    with monkeypatch.context() as patch:

        def first_only(config: Path, base: str) -> None:
            set_base(config, base)
            raise KeyboardInterrupt

        patch.setattr(adapter_bases, "set_base", first_only)
        with pytest.raises(KeyboardInterrupt):
            follow(RunDirectory(tmp_path / "b"))
    assert bases(tmp_path / "b") == [tmp_path / "b" / "users-own", tmp_path / "a" / "users-own"]
    (tmp_path / "b").rename(tmp_path / "c")
    follow(RunDirectory(tmp_path / "c"))
    assert bases(tmp_path / "c") == [tmp_path / "c" / "users-own"] * 2
    (tmp_path / "c").rename(tmp_path / "a")
    follow(RunDirectory(tmp_path / "a"))
    assert bases(tmp_path / "a") == [tmp_path / "a" / "users-own"] * 2


def test_a_base_elsewhere_stays(tmp_path: Path) -> None:
    """This is a base next to the run directory, also under a name that begins the same way, or on the Hub."""
    for number, base in enumerate((str(tmp_path / "run-2" / "users-own"), "org/model")):
        run_with_adapters(tmp_path / "run", base)
        (tmp_path / "run").rename(tmp_path / f"moved-{number}")
        follow(RunDirectory(tmp_path / f"moved-{number}"))
        assert bases(tmp_path / f"moved-{number}") == [Path(base)] * 2


def test_a_directory_that_cannot_be_written_to_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its adapters still find their base."""
    run_with_adapters(tmp_path / "a", str(tmp_path / "a" / "users-own"))
    (tmp_path / "a").rename(tmp_path / "b")
    before = contents(tmp_path / "b")

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(RunDirectory(tmp_path / "b").ownership.__class__, "_write", refuse)
    follow(RunDirectory(tmp_path / "b"))
    assert contents(tmp_path / "b") == before
    assert base_of(tmp_path / "b" / "iteration-1" / "model") == str(tmp_path / "b" / "users-own")


def test_another_model_under_the_starts_name_is_refused_where_the_run_is_now(
    llama_folder: Path, tmp_path: Path
) -> None:
    """On another machine, a name may stand for another model. Its weights are compared, once per move."""
    start = shutil.copytree(llama_folder, tmp_path / "start")
    build(start, "one", peft_config=lora(), num_iterations=1).run()
    Path("one").rename("other")
    build(start, "other", peft_config=lora(), num_iterations=1).run()
    tiny.save(start, tiny.model(seed=1))
    Path("other").rename("third")
    with refused(RunDirectoryError, "third", "other", start, "`--model_name_or_path`"):
        build(start, "third", peft_config=lora(), num_iterations=2).run()
