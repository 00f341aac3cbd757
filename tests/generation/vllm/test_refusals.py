"""An adapter that vLLM would refuse, or compute otherwise than PEFT, is refused with the setting's name."""

from pathlib import Path

import pytest
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import LlamaConfig, MambaConfig

import tiny
from messages import names, refused
from spin_trl.errors import DataError
from spin_trl.generation.vllm.refusals import (
    CPU_HEAD_SIZES,
    adapter_folder_refusals,
    cpu_refusals,
    head_size_of,
    lora_refusals,
)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "down_proj"], "lora_dropout": 0.1, "r": 512},
        {"init_lora_weights": "gaussian"},
    ],
)
def test_plain_lora_and_rslora_are_loaded(settings: dict[str, object]) -> None:
    assert list(lora_refusals(LoraConfig(**settings))) == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "`use_dora`"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"bias": "all"}, "all"),
        ({"lora_bias": True}, "`lora_bias`"),
        ({"trainable_token_indices": [3]}, "`trainable_token_indices`"),
        ({"rank_pattern": {"q_proj": 4}}, "`rank_pattern`"),
        ({"alpha_pattern": {"q_proj": 4}}, "`alpha_pattern`"),
        ({"layer_replication": [(0, 2), (1, 2)]}, "`layer_replication`"),
        ({"r": 513}, 513),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"target_modules": ["q_proj", "model.embed_tokens"]}, "model.embed_tokens"),
    ],
)
def test_what_vllm_does_not_load_is_named(settings: dict[str, object], named: object) -> None:
    [reason] = lora_refusals(LoraConfig(**settings))
    assert names(reason, named)


def test_other_adapters_are_refused() -> None:
    [reason] = lora_refusals(IA3Config())
    assert names(reason, "IA3Config")


@pytest.mark.parametrize("saves_embeddings", [False, True])
def test_saved_embeddings_are_found_in_the_weights(tmp_path: Path, saves_embeddings: bool) -> None:
    """As PEFT saves them for added tokens; its configuration does not tell."""
    model = get_peft_model(tiny.model("llama"), LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path, save_embedding_layers=saves_embeddings)
    reasons = list(adapter_folder_refusals(tmp_path))
    assert len(reasons) == saves_embeddings
    assert all("embed_tokens" in reason or "lm_head" in reason for reason in reasons)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    get_peft_model(tiny.model("llama"), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no weights")
    with refused(DataError, "adapter_model.safetensors"):
        list(adapter_folder_refusals(tmp_path))


@pytest.mark.parametrize(
    ("hidden", "heads", "head_dim", "size"), [(48, 2, None, 24), (64, 2, None, 32), (48, 2, 64, 64)]
)
def test_a_head_size_that_vllm_does_not_know_on_a_cpu_is_refused(
    hidden: int, heads: int, head_dim: int | None, size: int
) -> None:
    config = LlamaConfig(hidden_size=hidden, num_attention_heads=heads, head_dim=head_dim)
    assert head_size_of(config) == size
    reasons = list(cpu_refusals(config))
    assert len(reasons) == (size not in CPU_HEAD_SIZES)
    assert all(names(reason, size, *CPU_HEAD_SIZES) for reason in reasons)


def test_a_model_without_attention_has_no_head_size() -> None:
    config = MambaConfig()
    assert head_size_of(config) is None
    assert list(cpu_refusals(config)) == []
