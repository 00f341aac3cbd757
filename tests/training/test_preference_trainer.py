"""DPO on preference pairs starts at its own reference, the model that it is given, whatever that model's name says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tiny
from messages import refused
from spin_trl.errors import OpponentError
from spin_trl.training.preference_trainer import PreferenceTrainer
from trainers import settings

pytestmark = pytest.mark.numeric

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def trainer(model: Any, pairs: Any = None, **overrides: Any) -> PreferenceTrainer:
    pairs = tiny.preference(6) if pairs is None else pairs
    args = settings(loss_type=["sigmoid"], precompute_ref_log_probs=isinstance(model, str), **overrides)
    return PreferenceTrainer(model, args, pairs, tiny.tokenizer())


def adapted(folder: Path) -> Any:
    """Return the model with an adapter that has moved it away from its base."""
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(**LORA))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1)
    return model


@pytest.mark.parametrize("has_adapter", [False, True])
def test_every_log_ratio_is_zero_at_the_first_step(llama_folder: Path, has_adapter: bool) -> None:
    made = trainer(adapted(llama_folder) if has_adapter else str(llama_folder))
    made.train()
    first = made.state.log_history[0]
    # Batches of other shapes may differ in the last digit of a log-probability.
    assert [first["rewards/chosen"], first["rewards/rejected"]] == pytest.approx([0, 0], abs=1e-6)
    assert first["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert abs(made.state.log_history[1]["rewards/margins"]) > 1e-5


@pytest.mark.parametrize("has_adapter", [False, True])
def test_a_policy_that_left_its_reference_is_refused(llama_folder: Path, has_adapter: bool) -> None:
    made = trainer(adapted(llama_folder) if has_adapter else str(llama_folder))
    for name, weight in made.model.named_parameters():
        if weight.requires_grad and ("lora_B.default" in name or not has_adapter):
            weight.data += 0.05
    with refused(OpponentError):
        made.train()


def test_only_the_policys_adapter_is_saved_with_its_ends(llama_folder: Path) -> None:
    made = trainer(adapted(llama_folder))
    assert "ref" in made.model.peft_config
    made.train()
    made.save_model("saved")
    weights = load_file("saved/adapter_model.safetensors")
    assert weights
    assert not any("ref" in name.split(".") for name in weights)
    assert not Path("saved/ref").exists()
    assert Path("saved/generation_config.json").is_file()


@pytest.mark.parametrize(
    ("most", "mode", "count"),
    [
        (None, "keep_start", lambda prompt, chosen, rejected: prompt + chosen + rejected),
        (
            14,
            "keep_start",
            lambda prompt, chosen, rejected: prompt + min(chosen, 14 - prompt) + min(rejected, 14 - prompt),
        ),
    ],
)
def test_the_tokens_of_a_pair_count_its_prompt_once(
    llama_folder: Path, most: int | None, mode: str, count: Any
) -> None:
    tokenizer, expected = tiny.tokenizer(), 0
    pairs = [row for row in tiny.preference(8) if len(tokenizer(row["prompt"])["input_ids"]) < (most or 99)]
    assert pairs
    for row in pairs:
        prompt = len(tokenizer(row["prompt"])["input_ids"])
        both = (
            len(tokenizer(row["prompt"] + row[of] + tokenizer.eos_token)["input_ids"]) for of in ("chosen", "rejected")
        )
        expected += count(prompt, *(whole - prompt for whole in both))
    made = trainer(str(llama_folder), tiny.Dataset.from_list(pairs), max_length=most, truncation_mode=mode)
    assert made.tokens() == expected
