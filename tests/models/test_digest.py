"""A model is identified by its weights: neither its dtype, nor its location, nor an untrained adapter counts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, VeraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import tiny
from adapted import LORA, adapted, scores, settings
from spin_trl.models.digest import base_tensors, digest
from spin_trl.models.policy import load_policy

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}

EMBEDDINGS = ["q_proj", "embed_tokens"]
NEW = {
    "LoRA": LoraConfig(**LORA),
    "DoRA": LoraConfig(**LORA, use_dora=True),
    "LoRA with biases": LoraConfig(**LORA, lora_bias=True),
    "embeddings": LoraConfig(r=4, target_modules=EMBEDDINGS, task_type="CAUSAL_LM"),
    "DoRA on embeddings": LoraConfig(r=4, target_modules=EMBEDDINGS, use_dora=True, task_type="CAUSAL_LM"),
    "whole embeddings": LoraConfig(**LORA, modules_to_save=["embed_tokens"]),
    "whole head": LoraConfig(**LORA, modules_to_save=["lm_head"]),
    "whole norm": LoraConfig(**LORA, modules_to_save=["norm"]),
    "some tokens": LoraConfig(**LORA, trainable_token_indices=[3, 4]),
    "VeRA": VeraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "IA3": IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
    "LoHa": LoHaConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
}
"""Adapters for which PEFT stores different kinds of tensors, in different places."""


# ---- digests ---------------------------------------------------------------------------------------------------------


def test_equal_weights_have_equal_digests_in_every_format(llama_folder: Path, tmp_path: Path) -> None:
    """A checkpoint loaded in float32 and in bfloat16, or saved and loaded again, is the same model."""
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    name = digest(model)
    assert len(name.removeprefix("02")) == 16
    assert digest(load_policy(llama_folder, settings(model_init_kwargs={"dtype": "bfloat16"}))) == name
    model.save_pretrained(tmp_path)
    assert digest(AutoModelForCausalLM.from_pretrained(tmp_path)) == name


def test_one_changed_weight_changes_the_digest(llama: Any) -> None:
    """It may be any value in any position; the sign of a zero is meaningless."""
    before = digest(llama)
    with torch.no_grad():
        embedding = llama.get_input_embeddings().weight
        embedding[0, 0] = -0.0 if embedding[0, 0] == 0 else embedding[0, 0]
        assert digest(llama) == before
        llama.model.norm.weight[-1] += 0.1
    assert digest(llama) != before


def test_a_new_adapter_changes_nothing_and_a_trained_one_does(llama_folder: Path, tmp_path: Path) -> None:
    """A model with an untrained adapter has the digest of the model; the frozen copy does not count."""
    plain = digest(AutoModelForCausalLM.from_pretrained(llama_folder))
    fresh = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_folder), LoraConfig(**LORA))
    assert digest(fresh, adapter_is_new=True) == plain
    model = adapted(llama_folder)
    trained = digest(model)
    assert trained != plain
    assert trained != digest(adapted(llama_folder, seed=4))
    model.add_adapter("ref", model.peft_config["default"])
    assert digest(model) == trained
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    assert digest(load_policy(tmp_path, settings())) == trained


def test_adapters_of_fused_experts_have_a_digest() -> None:
    """PEFT wraps the adapters of two weights of one module in each other, with names that differ only by the wrapping."""
    plain = digest(tiny.model("qwen3_moe"))
    config = LoraConfig(r=4, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    model = get_peft_model(tiny.model("qwen3_moe"), config)
    assert digest(model, adapter_is_new=True) == plain
    named = {name: parameter for name, parameter in model.named_parameters() if "lora_B" in name}
    assert len(named) == 4
    digests = {digest(model)}
    for parameter in named.values():
        with torch.no_grad():
            parameter.add_(1)
        digests.add(digest(model))
    assert len(digests) == 5


def test_quantised_weights_have_a_digest_that_use_does_not_change(tmp_path: Path) -> None:
    """Loading them again gives the same digest, even after generation and evaluation in between."""
    folder = tiny.save(tmp_path, tiny.model(hidden_size=64, intermediate_size=128, head_dim=32))
    for nested in (False, True):
        config = BitsAndBytesConfig(**NF4, bnb_4bit_use_double_quant=nested)
        model = load_policy(folder, settings(), config)
        name = digest(model)
        before = scores(model)
        assert digest(model) == name
        again = load_policy(folder, settings(), config)
        assert digest(again) == name
        torch.testing.assert_close(scores(again), before)
    assert name != digest(AutoModelForCausalLM.from_pretrained(folder))


# ---- adapters of every kind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", NEW)
def test_a_new_adapter_of_any_kind_leaves_the_digest(kind: str, tied: bool) -> None:
    """Wrapped layers, copies of whole modules, and shared matrices are not taken for the base's weights."""
    plain = tiny.model(tie_word_embeddings=tied)
    name, weights = digest(plain), {key: tensor.clone() for key, tensor in plain.state_dict().items()}
    model = get_peft_model(plain, NEW[kind])
    found = base_tensors(model)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)
    assert digest(model, adapter_is_new=True) == name
    assert digest(model, adapter_is_new=True, definition=1) == digest(
        tiny.model(tie_word_embeddings=tied), definition=1
    )


@pytest.mark.parametrize("kind", NEW)
def test_every_tensor_of_an_adapter_counts_and_its_frozen_copy_does_not(kind: str, tmp_path: Path) -> None:
    """A trained adapter that is saved and loaded has the same digest as in memory."""
    tiny.save(tmp_path / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), NEW[kind])
    digests = {digest(model)}
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        with torch.no_grad():
            parameter.add_(0.5)
        digests.add(digest(model))
    assert len(digests) == len(learned) + 1
    trained = digest(model)
    model.save_pretrained(tmp_path / "adapter")
    assert digest(load_policy(tmp_path / "adapter", settings())) == trained
    model.add_adapter("ref", model.peft_config["default"])
    assert digest(model) == trained


def test_the_definition_stands_in_the_digest(llama: Any) -> None:
    """Definition 1 is that of version 0.1.0, whose runs can be continued."""
    assert digest(llama) == digest(llama, definition=2)
    assert digest(llama).startswith("02")
    assert len(digest(llama)) == 18
    assert len(digest(llama, definition=1)) == 16
    assert digest(llama, definition=1) not in digest(llama)
