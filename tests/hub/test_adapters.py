"""An adapter on the Hub can be a start, like one in a folder."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import runs
import tiny
from hub.server import LocalHub, Repository
from messages import names, refused
from spin_trl.cli import main
from spin_trl.errors import RecipeError
from spin_trl.models import adapters
from spin_trl.models.adapters import is_adapter
from spin_trl.models.digest import digest
from spin_trl.models.policy import load_policy

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False}


@pytest.fixture
def adapter(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an adapter in a folder and on the Hub as `org/sft-adapter`, next to a checkpoint and a pickle."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    base = tiny.save(tmp_path / "base")
    folder = tmp_path / "adapter"
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**LORA)).save_pretrained(folder)
    found = hub.repositories["model", "org/sft-adapter"] = Repository()
    found.branches["main"] = runs.contents(folder) | {"checkpoint-5/tokenizer.json": b"{}", "training_args.bin": b"x"}
    found.commit("main", "all")
    adapters._fetch.cache_clear()
    yield folder
    adapters._fetch.cache_clear()


def test_a_run_starts_from_it_as_from_its_folder(
    adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both iterations train it further; the tokenizer is its base model's; no checkpoint or pickle is downloaded."""
    path = runs.recipe(tmp_path / "there", adapter, model_name_or_path="org/sft-adapter", lora_r=8)
    with caplog.at_level(logging.WARNING):
        main(["run", str(path)])
    assert names(caplog.text, "`lora_r`", "org/sft-adapter")
    args = runs.build(adapter, tmp_path / "run").state.args
    assert digest(load_policy("org/sft-adapter", args)) == digest(load_policy(adapter, args))
    run = tmp_path / "there" / "run"
    for iteration in (0, 1):
        model = run / f"iteration-{iteration}" / "model"
        config = json.loads((model / "adapter_config.json").read_text(encoding="utf-8"))
        assert (config["r"], config["base_model_name_or_path"]) == (4, str(tmp_path / "base"))
        assert runs.weights(model) != runs.weights(adapter)
    runs.build(adapter, tmp_path / "run").run()
    assert runs.weights(run / "iteration-1" / "model") == runs.weights(tmp_path / "run" / "iteration-1" / "model")
    fetched = {file.name for file in (tmp_path / "cache").rglob("*") if file.is_symlink()}
    assert fetched == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_revision_beside_it_is_refused_with_a_way_out(adapter: Path, tmp_path: Path) -> None:
    """The revision would also apply to the base model."""
    with refused(RecipeError, "`model_revision`", "`hf download org/sft-adapter --revision v2 --local-dir FOLDER`"):
        runs.build("org/sft-adapter", tmp_path / "run", model_init_kwargs={"revision": "v2"}).run()
    assert not (tmp_path / "run").exists()


def test_other_names_are_no_adapters(hub: LocalHub, tmp_path: Path) -> None:
    """Names of a model, of a missing repository and of a path are not adapters."""
    hub.repositories["model", "org/whole"] = Repository()
    hub.model("org/whole").branches["main"] = {"config.json": b"{}"}
    hub.model("org/whole").commit("main", "all")
    assert not any(map(is_adapter, ("org/whole", "org/none", "./org/whole", str(tmp_path / "none"), "gpt2")))
    assert hub.count("adapter_config.json") == 2
