"""A merged model computes what the adapter's model did, whatever PEFT has put around or into the layers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PromptTuningConfig, XLoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import tiny
from messages import names, refused
from spin_trl.errors import DataError
from spin_trl.models import merging
from spin_trl.models.merging import merge_refusals, merged_alike

PROMPT = [5, 9, 17, 3, 40, 8]
ADAPTERS: dict[str, PeftConfig] = {
    "DoRA": LoraConfig(use_dora=True, target_modules=["q_proj", "down_proj"]),
    "whole layers": LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head", "norm"]),
    "both embeddings": LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "adapted embeddings": LoraConfig(target_modules=["q_proj", "embed_tokens"]),
    "single tokens": LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3, 5]),
    "high rank": LoraConfig(r=600, target_modules=["q_proj"]),
    "rank by layer": LoraConfig(target_modules=["q_proj"], rank_pattern={"q_proj": 3}, alpha_pattern={"q_proj": 7}),
    "IA3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}  # fmt: skip


def adapted(config: PeftConfig, seed: int = 0) -> Any:
    """Return a model with an adapter that has learned something."""
    model = get_peft_model(tiny.model("llama"), config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def logps(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([PROMPT])).logits.log_softmax(-1)


@pytest.mark.parametrize("config", ADAPTERS.values(), ids=ADAPTERS)
def test_the_merged_model_gives_the_same_log_probabilities(config: PeftConfig, tmp_path: Path) -> None:
    assert list(merge_refusals(config)) == []
    model = adapted(config)
    expected, base = logps(model), logps(tiny.model("llama").eval())
    assert not torch.allclose(expected, base, atol=1e-3)
    merged_alike(model, PROMPT).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logps(loaded), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (LoraConfig(alora_invocation_tokens=[3]), "`alora_invocation_tokens`"),
        (LoraConfig(layer_replication=[(0, 1), (0, 1)]), "`layer_replication`"),
        (PromptTuningConfig(num_virtual_tokens=2), "PromptTuningConfig"),
        (XLoraConfig(hidden_size=8), "XLoraConfig"),
    ],
)
def test_what_can_not_be_merged_is_known_from_its_configuration(config: PeftConfig, part: str) -> None:
    [reason] = merge_refusals(config)
    assert names(reason, part)


def test_what_peft_refuses_to_merge_is_refused() -> None:
    model = adapted(LoraConfig(target_modules=["q_proj"], alora_invocation_tokens=[3], task_type="CAUSAL_LM"))
    with refused(DataError, "PEFT", "aLoRA"):
        merged_alike(model, PROMPT)


def test_a_merge_that_changes_the_model_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The distance is the total variation of the next token's probabilities, averaged over the prompt."""
    model = adapted(LoraConfig(target_modules=["q_proj", "down_proj"]))
    expected = logps(model).exp()
    other = tiny.model("llama", seed=1).eval()
    monkeypatch.setattr(merging, "merged", lambda _: other)
    distance = (expected - logps(other).exp()).abs().sum(-1).mean().item() / 2
    with refused(DataError, f"{distance:.3g}", "0.001"):
        merged_alike(model, PROMPT)


def test_a_merge_that_gives_no_numbers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = adapted(LoraConfig(target_modules=["q_proj"])), tiny.model("llama")
    next(other.parameters()).data.fill_(math.nan)
    monkeypatch.setattr(merging, "merged", lambda _: other)
    with refused(DataError, "nan"):
        merged_alike(model, PROMPT)
