"""A start under a new name is distinguished from another start, and a run's adapters find it there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import tiny
from messages import refused
from runs import build, steps
from spin_trl.errors import RunDirectoryError
from spin_trl.generation.store import STORE_MANIFEST
from spin_trl.models.digest import digest
from spin_trl.play import same_start
from spin_trl.play.phases import in_this_process
from spin_trl.play.same_start import check_same_start, is_same_start, point_adapters_at_start
from spin_trl.run.adapter_bases import named_base
from spin_trl.run.run import Run


def written(path: Path, base: str) -> Path:
    """Write the configuration of an adapter with this base."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"r": 4, "base_model_name_or_path": base}), encoding="utf-8")
    return path


def begun(model: Path, before: str) -> tuple[Run, Path]:
    """Return a run that started from a model with another name, and the configuration of the adapter that it trained."""
    run = build(model).state
    run.directory.ownership.claim()
    recipe = run.directory.own("recipe.yaml")
    recipe.write_text(yaml.safe_dump({"model_name_or_path": before}), encoding="utf-8")
    adapter = run.directory.own("iteration-0") / "model" / "adapter_config.json"
    return run, written(adapter, before)


@pytest.mark.parametrize(
    ("base", "is_moved"),
    [("before", True), ("another", False), ("org/on-the-hub", False)],
)
def test_only_adapters_of_the_start_are_pointed_at_it(base: str, is_moved: bool, llama_folder: Path) -> None:
    """Their base no longer exists. Adapters with any other base are not the run's to change."""
    run, adapter = begun(llama_folder, "before")
    written(adapter, base)
    point_adapters_at_start(run)
    assert named_base(adapter) == (str(llama_folder) if is_moved else base)


def test_a_base_that_is_there_stays(llama_folder: Path, tmp_path: Path) -> None:
    """Its path leads to it from any folder. A start on the Hub, which has no folder to point to, is kept too."""
    (tmp_path / "elsewhere").mkdir()
    run, adapter = begun(llama_folder, str(tmp_path / "elsewhere"))
    point_adapters_at_start(run)
    assert named_base(adapter) == str(tmp_path / "elsewhere")
    run.model = "org/model"
    written(adapter, "before")
    point_adapters_at_start(run)
    assert named_base(adapter) == "before"


def test_a_start_is_known_by_its_weights_once_it_has_answered(llama_folder: Path, tmp_path: Path) -> None:
    """Before that, only the rows depend on it, through its template and tokenizer."""
    run, _ = begun(llama_folder, "before")
    other = build(tiny.save(tmp_path / "other", tiny.model(seed=1))).state
    run.journal.append("prepare", "data", dataset="d0", template=run.template().digest())
    assert is_same_start(run)
    assert is_same_start(other)  # the same run directory, with another model of the same tokenizer
    store = run.directory.generations("iteration-0")
    store.mkdir(parents=True)
    (store / STORE_MANIFEST).write_text(json.dumps({"model": digest(tiny.model())}), encoding="utf-8")
    assert is_same_start(run)
    assert not is_same_start(other)


def test_weights_that_are_replaced_while_a_run_plays_are_refused(llama_folder: Path, tmp_path: Path) -> None:
    """Another model is trained into the start's folder, and the next phase does not run."""
    start = shutil.copytree(llama_folder, tmp_path / "start")

    def launch(run: Run, phase: str, iteration: int) -> None:
        in_this_process(run, phase, iteration)
        if (phase, iteration) == ("evaluate", 0):
            tiny.save(start, tiny.model(seed=1))

    with refused(RunDirectoryError, start, tmp_path / "run", "model.safetensors"):
        build(start, tmp_path / "run", launch=launch).run()
    assert ("generate", "iteration-1") not in steps(tmp_path / "run")
    with refused(RunDirectoryError, start, "model.safetensors"):
        build(start, tmp_path / "run").run()
    shutil.copytree(llama_folder, start, dirs_exist_ok=True)
    build(start, tmp_path / "run").run()
    assert ("evaluate", "iteration-1") in steps(tmp_path / "run")


def test_files_that_were_written_again_with_the_same_weights_are_compared_once(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their times have changed, because of a copy or `touch`. Before anything was answered, the model may be replaced."""
    compared = []
    compare = same_start.is_same_start
    monkeypatch.setattr(same_start, "is_same_start", lambda run: compared.append(run) or compare(run))
    start = shutil.copytree(llama_folder, tmp_path / "start")
    run, _ = begun(start, str(start))
    check_same_start(run)
    tiny.save(start, tiny.model(seed=1))
    check_same_start(run)
    assert compared == []
    store = run.directory.generations("iteration-0")
    store.mkdir(parents=True)
    (store / STORE_MANIFEST).write_text(json.dumps({"model": digest(tiny.model(seed=1))}), encoding="utf-8")
    for _ in range(2):
        check_same_start(run)
        os.utime(start / "model.safetensors", ns=(1, 1))
        check_same_start(run)
    assert len(compared) == 1
    tiny.save(start, tiny.model())
    with refused(RunDirectoryError, start, "model.safetensors"):
        check_same_start(run)


def test_the_base_of_an_adapter_is_looked_at_too(llama_folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(llama_folder, tmp_path / "base")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "start")
    tiny.tokenizer().save_pretrained(tmp_path / "start")
    run, _ = begun(tmp_path / "start", str(tmp_path / "start"))
    check_same_start(run)
    assert set(run.directory.ownership.start_files() or ()) == {"adapter_model.safetensors", "base/model.safetensors"}
