"""What vLLM can't serve is known before a run begins, from the model's configuration and the adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, LlamaConfig

import tiny
from messages import names
from spin_trl.generation.vllm.to_serve import ToServe, is_of_bitsandbytes

HEADS_OF_24 = LlamaConfig(hidden_size=48, num_attention_heads=2)
ALORA = LoraConfig(alora_invocation_tokens=[3])
HEADS_OF_32 = LlamaConfig(hidden_size=64, num_attention_heads=2)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"config": HEADS_OF_24}, []),
        ({"config": HEADS_OF_24, "on_gpu": False}, [24]),
        ({"config": HEADS_OF_32, "on_gpu": False}, []),
        ({"config": None, "on_gpu": False, "tensor_parallel": 2}, []),
        ({"config": None, "tensor_parallel": 4, "num_gpus": 2}, ["`tensor_parallel`", 4, 2]),
        ({"config": None, "tensor_parallel": 2, "num_gpus": 2}, []),
        ({"config": None, "needs_consent": True}, ["`vllm_unquantised_base: true`", "`engine: transformers`"]),
        ({"config": None, "adapters": [LoraConfig(r=8)]}, []),
        ({"config": None, "adapters": [LoraConfig(r=8), ALORA]}, ["`alora_invocation_tokens`"]),
    ],
)  # fmt: skip
def test_what_it_can_not_serve_is_named(given: dict[str, Any], parts: list[object]) -> None:
    found = list(ToServe(**given).refusals())
    assert len(found) == bool(parts)
    assert all(names(reason, *parts) for reason in found)


def test_the_adapter_that_a_run_starts_from_counts(tmp_path: Path) -> None:
    config = LoraConfig(target_modules=["q_proj"], alora_invocation_tokens=[3], task_type="CAUSAL_LM")
    get_peft_model(tiny.model("llama"), config).save_pretrained(tmp_path)
    [reason] = ToServe(None, adapter_folder=tmp_path).refusals()
    assert names(reason, "`alora_invocation_tokens`")


@pytest.mark.parametrize(
    ("quantisation", "expected"),
    [
        (None, False),
        (BitsAndBytesConfig(load_in_4bit=True), True),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, True),
        ({"quant_method": "gptq"}, False),
    ],
)
def test_quantisations_of_bitsandbytes_are_recognised(quantisation: object, expected: bool) -> None:
    assert is_of_bitsandbytes(quantisation) is expected
