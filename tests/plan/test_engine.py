"""A plan and a run agree on what `engine: auto` chooses: from the same facts, or what a run that goes on has kept."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from plan.shapes import folder, recipe, small
from runs import build
from spin_trl.generation.vllm import choice as module
from spin_trl.plan.engine import Here, settle_planned_engine
from spin_trl.plan.planning import planned_recipe
from spin_trl.plan.setup import Setup, Sharding
from spin_trl.play.answering import served
from spin_trl.play.settled_engine import SettledEngine
from spin_trl.run.directory import RunDirectory
from spin_trl.run.journal import DATA, Journal, Step


@pytest.fixture(autouse=True)
def _vllm_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(command: tuple[str, ...]) -> str | None:
        return "0.31.0" if command == ("here",) else None

    monkeypatch.setattr("spin_trl.play.settled_engine.answered_version", version)
    choose = functools.partial(module.choose_engine, version_of=version)
    monkeypatch.setattr("spin_trl.plan.engine.choose_engine", choose)


def planned(path: Path, on_gpu: bool = True, here: Here | None = None, **settings: Any) -> Any:
    """Settle the engine of a plan. Return its choice, if it had to choose, and the engine."""
    model = path / "model"
    source = recipe(path, model if model.is_dir() else folder(model, small()), **{"engine": "auto", **settings})
    setup = Setup(planned_recipe(source, []), Sharding(), on_gpu=on_gpu)
    return settle_planned_engine(setup, here or Here()), setup.args.engine


@pytest.mark.parametrize("on_gpu", [True, False])
@pytest.mark.parametrize(
    ("settings", "engine"),
    [
        ({"vllm_command": ["here"]}, "vllm"),
        ({"vllm_command": ["elsewhere"]}, "transformers"),
        ({"vllm_command": ["here"], "use_peft": True, "use_dora": True}, "vllm"),
        ({"vllm_command": ["here"], "use_peft": True, "load_in_4bit": True}, "transformers"),
        ({"vllm_command": ["here"], "tensor_parallel": 2}, "transformers"),
    ],
    ids=["answers", "no answer", "merged", "4 bits", "too few GPUs"],
)  # fmt: skip
def test_a_plan_chooses_what_the_run_chooses(
    settings: dict[str, Any], engine: str, on_gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are told that there is one GPU, or none."""
    from trl import get_quantization_config

    from spin_trl.models.adapters import peft_config_of

    monkeypatch.setattr(served, "_on_gpu", lambda _: on_gpu)
    monkeypatch.setattr(served.torch.cuda, "device_count", lambda: int(on_gpu))
    choice, found = planned(tmp_path, on_gpu, Here(num_gpus=int(on_gpu)), **settings)
    model = tiny.save(tmp_path / "start", tiny.model("llama"))
    loaded = planned_recipe(recipe(tmp_path, model, engine="auto", **settings), [])
    of_run = {name: value for name, value in settings.items() if name in ("vllm_command", "tensor_parallel")}
    session = build(
        model,
        engine="auto",
        peft_config=peft_config_of(loaded.model),
        quantization_config=get_quantization_config(loaded.model),
        **of_run,
    )
    line = session._engine.settle()
    assert found == session.state.args.engine == (engine if on_gpu else "transformers")
    assert str(choice) == line


def test_a_named_engine_is_not_chosen(tmp_path: Path) -> None:
    assert planned(tmp_path, engine="vllm", vllm_command=["elsewhere"]) == (None, "vllm")


@pytest.mark.parametrize("kept", ["vllm", "transformers"])
def test_a_run_that_goes_on_is_planned_with_the_engine_that_it_keeps(tmp_path: Path, kept: str) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.claim("continue")
    text = yaml.safe_dump({"engine": kept} if kept == "vllm" else {})
    directory.own("recipe.yaml").write_text(text, encoding="utf-8")
    other = {"vllm_command": ["elsewhere" if kept == "vllm" else "here"]}
    assert planned(tmp_path, here=Here(directory), **other)[1] != kept  # it has not begun
    directory.own("journal.jsonl")
    Journal(directory.journal).append(Step.PREPARE, DATA, rows=1, dataset="d")
    assert planned(tmp_path, here=Here(directory), **other) == (None, kept)
    run = build("org/model", tmp_path / "run", engine="auto", **other)
    assert isinstance(run._engine, SettledEngine)
    assert run._engine.settle() == ""
    assert run.state.args.engine == kept
    assert planned(tmp_path, here=Here(directory), existing_run="overwrite", **other)[1] != kept
