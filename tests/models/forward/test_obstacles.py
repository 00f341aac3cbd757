"""Models and batches for which prompts can't be shared exactly are recognised, with a reason for the user."""

from typing import Any

import pytest
import transformers
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import PreTrainedModel
from trl.trainer.utils import disable_dropout_in_model

import tiny
from drop_in import vision
from messages import names
from spin_trl.models.forward.attention import IMPLEMENTATIONS
from spin_trl.models.forward.obstacles import of_call, of_length, of_model

TINY = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def made(name: str, **config: Any) -> PreTrainedModel:
    """Return a model of an architecture that `tiny` does not have."""
    kind = getattr(transformers, f"{name}Config")
    return getattr(transformers, f"{name}ForCausalLM")(kind(**TINY, hidden_size=16, **config)).eval()


@pytest.mark.parametrize(
    "architecture",
    [
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "phi3",
        "gemma",
        "cohere2",
        "gemma3_text",
        "mixtral",
        "qwen2_moe",
        "qwen3_moe",
    ],
)
def test_ordinary_decoders_have_no_obstacle(architecture: str) -> None:
    """This includes mixtures of experts; whether their auxiliary loss is used depends on the call."""
    assert of_model(tiny.model(architecture)) is None


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention", *IMPLEMENTATIONS.values()])
def test_the_kinds_of_attention_that_take_a_layout(attention: str) -> None:
    assert of_model(tiny.model(attn_implementation=attention)) is None


def test_lora_is_no_obstacle() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    assert of_model(get_peft_model(tiny.model(), config)) is None
    assert names(str(of_model(get_peft_model(tiny.model("lfm2"), config))), "recurrent")


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_are_an_obstacle(kind: type) -> None:
    model = get_peft_model(tiny.model(), kind(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert isinstance(model, PeftModel)
    assert names(str(of_model(model)), "PEFT", "virtual tokens")


def test_convolutions_and_recurrence_are_an_obstacle() -> None:
    """One such layer is enough; if a model names its layers, the reason names it too."""
    assert names(str(of_model(tiny.model("lfm2"))), "recurrent", "linear-attention", "(conv)")
    mamba = made("Mamba", num_hidden_layers=1, state_size=4)
    assert names(str(of_model(mamba)), "recurrent", "linear-attention")
    stateful = tiny.model()
    stateful._is_stateful = True
    reason = str(of_model(stateful))
    assert names(reason, "recurrent", "linear-attention")
    assert "(" not in reason


def test_layers_without_attention_are_no_obstacle_and_not_blamed() -> None:
    """Feed-forward layers and experts that a model lists as separate layers see one token at a time."""
    model = tiny.model()
    model.config.layer_types = ["full_attention", "mlp"]
    assert of_model(model) is None
    hybrid = made("NemotronH", layers_block_type=["linear_attention", "moe", "mlp"], moe_intermediate_size=16)
    assert names(str(of_model(hybrid)), "linear-attention", "(linear_attention)")


def test_eager_attention_is_an_obstacle() -> None:
    """Gemma 2 supports only this one by default; any model may be given it."""
    for model in (tiny.model("gemma2"), tiny.model(attn_implementation="eager")):
        assert names(str(of_model(model)), "attention", "'eager'", "'sdpa'", "'flex_attention'")


def test_attention_of_a_models_own_is_an_obstacle() -> None:
    """Falcon calls PyTorch's function itself, bypassing transformers' interface."""
    model = made("Falcon", num_hidden_layers=1, num_attention_heads=2)
    assert model.config._attn_implementation == "sdpa"
    assert names(str(of_model(model)), "FalconForCausalLM", "attention", "interface")


def test_attention_that_is_not_causal_is_an_obstacle() -> None:
    assert names(str(of_model(tiny.model(is_causal=False))), "attention", "causal")


def test_a_model_over_several_devices_is_an_obstacle() -> None:
    """A layout is on one of them."""
    model = tiny.model()
    model.hf_device_map = {"": 0}
    assert of_model(model) is None
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    assert names(str(of_model(model)), "`device_map`")


def test_more_than_a_text_decoder_is_an_obstacle() -> None:
    """Images are embedded in a prompt, and an encoder's tokens have no row of their own."""
    assert names(str(of_model(vision.model("llava"))), "LlavaForConditionalGeneration", "text decoder")
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    t5 = transformers.T5ForConditionalGeneration(transformers.T5Config(**{**TINY, **sizes}))
    assert names(str(of_model(t5)), "T5ForConditionalGeneration", "text decoder")


def test_dropout_is_an_obstacle_until_it_is_disabled() -> None:
    """GPT-2's layers have it by default; TRL disables dropout layers, but a Llama's dropout is a setting and not a layer."""
    model = tiny.model("gpt2")
    assert names(str(of_model(model)), "dropout", "`disable_dropout: false`")
    disable_dropout_in_model(model)
    assert of_model(model) is None
    assert names(str(of_model(tiny.model(attention_dropout=0.1))), "`attention_dropout`", 0)


def test_dropout_of_an_adapter_is_an_obstacle() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", lora_dropout=0.1)
    model = get_peft_model(tiny.model(), config)
    assert names(str(of_model(model)), "dropout", "`disable_dropout: false`")
    disable_dropout_in_model(model)
    assert of_model(model) is None


def test_the_auxiliary_loss_of_a_mixture_is_an_obstacle() -> None:
    """It depends on all tokens of the batch, in which a prompt occurs twice."""
    call = {"use_cache": False, "fused_lm_head": True}
    assert of_call(call) is None
    assert of_call({**call, "output_router_logits": False}) is None
    assert names(str(of_call({**call, "output_router_logits": True})), "auxiliary loss", "experts")


def test_what_a_layout_does_not_know_is_an_obstacle() -> None:
    call = {"use_cache": False, "pixel_values": 1, "image_grid_thw": 2}
    assert names(str(of_call(call)), "'image_grid_thw', 'pixel_values'")
    assert names(str(of_call({"position_ids": 1})), "'position_ids'")


@pytest.mark.parametrize("architecture", ["cohere2", "gemma3_text"])
def test_rows_beyond_the_sliding_window_are_an_obstacle(architecture: str) -> None:
    """A window of 64 contains a whole row of 64 tokens, but no longer row."""
    config = tiny.model(architecture).config
    assert of_length(config, 64) is None
    assert names(str(of_length(config, 65)), "65 tokens", "`sliding_window`", 64)


def test_windows_count_where_layers_use_them() -> None:
    """Mistral does not name its layers, and all of them slide. Qwen2 may set a window that no layer has."""
    assert of_length(tiny.model("mistral", sliding_window=16).config, 16) is None
    assert names(
        str(of_length(tiny.model("mistral", sliding_window=16).config, 17)), "17 tokens", "`sliding_window`", 16
    )
    unused = tiny.model("qwen2", sliding_window=16, use_sliding_window=False).config
    assert of_length(unused, 400) is None
    mixed = tiny.model("gemma3_text", layer_types=["full_attention", "full_attention"]).config
    assert of_length(mixed, 400) is None


def test_chunks_of_attention_are_windows_too() -> None:
    config = transformers.Llama4TextConfig(
        attention_chunk_size=32, layer_types=["chunked_attention"] * 2, num_hidden_layers=2
    )
    assert of_length(config, 32) is None
    assert names(str(of_length(config, 33)), "33 tokens", "`attention_chunk_size`", 32)
    config.layer_types = ["full_attention"] * 2
    assert of_length(config, 33) is None


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma"])
def test_without_windows_rows_may_be_of_any_length(architecture: str) -> None:
    assert of_length(tiny.model(architecture).config, 100_000) is None
