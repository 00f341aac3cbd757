"""The memory of all layers follows from running only a few of them."""

import pytest
import torch
from peft import LoraConfig
from transformers import Gemma3TextConfig, LlamaConfig

from messages import refused
from plan.shapes import small
from spin_trl.errors import PlanError
from spin_trl.plan import rehearsal
from spin_trl.plan.model import ModelSettings, PlannedModel
from spin_trl.plan.tokens import PairLengths

PAIRS = [PairLengths(9, (14, 11)), PairLengths(5, (8, 17))]

LORA = LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "bf16"},
        {"precision": "bf16", "checkpointing": True, "on_gpu": True},
        {"peft": LORA, "checkpointing": True},
        {"peft": LORA, "frozen_adapter": True},
    ],
    ids=["full", "bf16", "bf16, checkpointing", "lora, checkpointing", "lora"],
)
@pytest.mark.slow
def test_a_few_layers_say_what_all_of_them_take(monkeypatch, settings):
    """The result is exact to the byte, whenever the peak occurs."""
    config = small(num_hidden_layers=9, hidden_size=128)
    model = PlannedModel(ModelSettings(config, torch.float32, **settings))

    def peaks():
        return [
            rehearsal.training(model, PAIRS, shared=True),
            rehearsal.training(model, PAIRS, shared=False, keep_gradients=False),
            rehearsal.supervised(model, PAIRS, smoothing=True),
            rehearsal.supervised(model, PAIRS, smoothing=False),
            rehearsal.scoring(model, PAIRS, shared=True),
            rehearsal.prefill(model, 3, 50),
        ]

    few = peaks()
    assert all(peak.bytes > peak.head for peak in few)
    assert len(model.alike_layers) == 9  # they are restored
    monkeypatch.setattr(rehearsal, "PLAYED_LAYERS", 9)
    assert few == peaks()


def test_layers_that_differ_are_all_played():
    """In Gemma 3, every sixth layer attends to all tokens, the others to a window."""
    config = Gemma3TextConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=32,
    )
    assert not PlannedModel(ModelSettings(config, torch.bfloat16)).alike_layers
    assert len(PlannedModel(ModelSettings(small(num_hidden_layers=7), torch.bfloat16)).alike_layers) == 7


def test_a_model_whose_own_code_fails_is_one_message(capfd: pytest.CaptureFixture[str]) -> None:
    """torch would print its own traceback before it."""
    model = PlannedModel(ModelSettings(small(), torch.float32))
    model.base.register_forward_pre_hook(lambda *_: torch.zeros(3) + torch.zeros(4))
    with refused(PlanError, "Qwen2ForCausalLM", "attn_implementation"):
        rehearsal.prefill(model, 1, 64)
    assert "Traceback" not in capfd.readouterr().err


def test_a_configuration_that_fails_in_a_forward_pass_is_named() -> None:
    """Transformers checks no key that the model's own configuration class does not declare."""
    config = LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.sliding_window = "a"
    model = PlannedModel(ModelSettings(config, torch.float32))
    with refused(PlanError, "LlamaForCausalLM", "TypeError", "config.json"):
        rehearsal.prefill(model, 1, 64)
