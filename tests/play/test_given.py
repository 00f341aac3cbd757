"""A model with an adapter that is passed from Python is saved so that every phase can load it."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import runs
import tiny
from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.models.adapters import base_of, is_adapter
from spin_trl.models.digest import digest
from spin_trl.models.policy import load_policy
from spin_trl.play.given import keep_adapter

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False}


@pytest.mark.slow
def test_its_base_may_be_on_no_disk(tmp_path: Path) -> None:
    """The base is then saved next to the adapter, and both iterations continue with the adapter."""
    model = get_peft_model(tiny.model(), LoraConfig(**LORA))
    session = runs.build(model, tmp_path / "run", processing_class=tiny.tokenizer())
    session.run()
    assert base_of(tmp_path / "run" / "start" / "model") == str(tmp_path / "run" / "start" / "base")
    assert all(is_adapter(tmp_path / "run" / f"iteration-{t}" / "model") for t in (0, 1))
    loaded = load_policy(tmp_path / "run" / "start" / "model", session.state.args)
    assert digest(loaded) == digest(model)
    again = runs.build(model, tmp_path / "run", processing_class=tiny.tokenizer())
    before = runs.journal(tmp_path / "run")
    again.run()
    assert runs.journal(tmp_path / "run") == before


def test_a_base_that_has_a_name_is_not_kept_twice(tmp_path: Path) -> None:
    base = tiny.save(tmp_path / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**LORA))
    args = runs.build(base, tmp_path / "run").state.args
    keep_adapter(model, tiny.tokenizer(), tmp_path / "start" / "model", args)
    assert base_of(tmp_path / "start" / "model") == str(base)
    assert not (tmp_path / "start" / "base").exists()


def test_a_base_that_was_changed_in_memory_is_kept_as_it_is(tmp_path: Path) -> None:
    """Loading it by name would give other weights."""
    base = tiny.save(tmp_path / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**LORA))
    with torch.no_grad():
        model.get_base_model().model.norm.weight.add_(0.5)
    args = runs.build(base, tmp_path / "run").state.args
    keep_adapter(model, tiny.tokenizer(), tmp_path / "start" / "model", args)
    assert digest(load_policy(tmp_path / "start" / "model", args)) == digest(model)


def test_an_adapter_of_another_name_is_refused(tmp_path: Path) -> None:
    model = get_peft_model(tiny.model(), LoraConfig(**LORA), adapter_name="sft")
    with refused(RecipeError, "`model`", "['sft']", "'default'"):
        runs.build(model, tmp_path / "run", processing_class=tiny.tokenizer()).run()
