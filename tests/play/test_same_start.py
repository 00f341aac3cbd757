"""A start that has another name now is told from another start, and a run's adapters find it where it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import tiny
from runs import build
from spin_trl.generation.store import STORE_MANIFEST
from spin_trl.models.digest import digest
from spin_trl.play.given import is_same_start, point_adapters_at_start
from spin_trl.run.adapter_bases import named_base
from spin_trl.run.run import Run


def written(path: Path, base: str) -> Path:
    """An adapter's configuration that names this base."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"r": 4, "base_model_name_or_path": base}), encoding="utf-8")
    return path


def begun(model: Path, before: str) -> tuple[Run, Path]:
    """A run that began with a model of another name, and the configuration of the adapter that it trained."""
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
    """What they name is gone. Whatever else an adapter names is not this run's to change."""
    run, adapter = begun(llama_folder, "before")
    written(adapter, base)
    point_adapters_at_start(run)
    assert named_base(adapter) == (str(llama_folder) if is_moved else base)


def test_a_base_that_is_there_stays(llama_folder: Path, tmp_path: Path) -> None:
    """Its path leads to it from any folder. So does a start on the Hub, which has no folder to point at."""
    (tmp_path / "elsewhere").mkdir()
    run, adapter = begun(llama_folder, str(tmp_path / "elsewhere"))
    point_adapters_at_start(run)
    assert named_base(adapter) == str(tmp_path / "elsewhere")
    run.model = "org/model"
    written(adapter, "before")
    point_adapters_at_start(run)
    assert named_base(adapter) == "before"


def test_a_start_is_known_by_its_weights_once_it_has_answered(llama_folder: Path, tmp_path: Path) -> None:
    """Before that, only what its template and tokenizer make of rows has come of it."""
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
