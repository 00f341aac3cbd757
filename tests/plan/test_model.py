"""Parameters, quantised weights and adapters of real architectures match published counts and sums by hand."""

import pytest
import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig

from messages import refused
from plan.shapes import QWEN_05B, QWEN_3B, ZEPHYR, small
from spin_trl.errors import PlanError
from spin_trl.plan.model import ModelSettings, PlannedModel


@pytest.mark.parametrize(
    ("config", "parameters", "is_tied"),
    [(ZEPHYR, 7_241_732_096, False), (QWEN_05B, 494_032_768, True), (QWEN_3B, 3_085_938_688, True)],
    ids=["zephyr-7b", "qwen2.5-0.5b", "qwen2.5-3b"],
)
def test_parameters_are_the_published_ones(config, parameters, is_tied):
    model = PlannedModel(ModelSettings(config, torch.bfloat16))
    assert (model.num_parameters, model.is_tied) == (parameters, is_tied)
    assert model.num_trainable == parameters
    assert 2 * parameters <= model.weight_bytes < 2 * parameters + 10_000  # and the rotary frequencies


def test_four_bits_are_what_bitsandbytes_replaces():
    """They are all linear layers of Qwen2.5-0.5B except the tied head: half a byte per weight, plus scales, computed
    by hand.
    """
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = PlannedModel(ModelSettings(QWEN_05B, torch.float16, nf4))
    by_layer = 896 * 896 + 2 * 896 * 128 + 896 * 896 + 3 * 896 * 4864
    linear = 24 * by_layer
    others = 151936 * 896 + 24 * (896 + 2 * 128 + 2 * 896) + 896  # embeddings, biases, norms
    assert linear + others == 494_032_768
    scales = linear // 64 * (1 + 4 / 256)
    assert model.weight_bytes == pytest.approx(linear / 2 + scales + 2 * others, rel=1e-3)
    assert model.num_trainable == 0


def test_an_adapter_is_counted_as_peft_makes_it():
    """Each layer has r (in + out) values: for Qwen2.5-0.5B with r = 16 on queries and values, 24 * 16 * ((896 + 896) +
    (896 + 128)).
    """
    lora = LoraConfig(r=16, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    model = PlannedModel(ModelSettings(QWEN_05B, torch.bfloat16, None, lora))
    assert model.num_trainable == 24 * 16 * (896 + 896 + 896 + 128) == 1_081_344
    assert model.adapter_bytes == 4 * 1_081_344  # in float32, regardless of the weights' dtype
    both = PlannedModel(ModelSettings(QWEN_05B, torch.bfloat16, None, lora, frozen_adapter=True))
    assert both.adapter_bytes == 2 * model.adapter_bytes
    assert both.num_trainable == model.num_trainable


def test_nothing_of_a_planned_model_takes_memory():
    """Its tensors are fake."""
    model = PlannedModel(ModelSettings(small(), torch.float32))
    assert all(type(parameter.data).__name__ == "FakeTensor" for parameter in model.model.parameters())


@pytest.mark.parametrize(
    "says", [{"num_attention_heads": 0}, {"hidden_size": -1}, {"num_hidden_layers": "a"}], ids=range(3)
)
def test_a_configuration_that_makes_no_model_is_refused(says):
    config = small()
    for name, value in says.items():
        object.__setattr__(config, name, value)
    with refused(PlanError, config.model_type):
        PlannedModel(ModelSettings(config, torch.float32))


@pytest.mark.parametrize("bits", [4, 8])
def test_dora_adds_a_magnitude_per_output_to_a_quantised_layer(bits):
    """For Qwen2.5-0.5B with r = 16 on queries and values, 24 * (896 + 128) values more than LoRA has; PEFT computes them
    from the weights of the quantised layers.
    """
    how = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    dora = LoraConfig(r=16, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], use_dora=True)
    model = PlannedModel(ModelSettings(QWEN_05B, torch.bfloat16, how, dora))
    assert model.num_trainable == 1_081_344 + 24 * (896 + 128)
    assert model.weight_bytes == PlannedModel(ModelSettings(QWEN_05B, torch.bfloat16, how)).weight_bytes
    with model.fake:
        ids = torch.zeros(2, 7, dtype=torch.long)
        loss = model.model(input_ids=ids, labels=ids).loss
        loss.backward()
    magnitudes = [weight for name, weight in model.model.named_parameters() if "magnitude" in name]
    assert len(magnitudes) == 2 * 24
    assert all(weight.grad is not None and weight.grad.shape == weight.shape for weight in magnitudes)
