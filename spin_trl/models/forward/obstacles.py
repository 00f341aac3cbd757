"""What keeps a forward from running over unique tokens: reasons, in words for the user, or None."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers import PretrainedConfig

from .attention import IMPLEMENTATIONS
from .head import TOKENS

_EXACT_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "mlp", "moe"}
"""Layers whose tokens see other tokens through attention alone, or not at all."""

AUXILIARY_LOSS = (
    "the auxiliary loss of a mixture of experts counts the tokens of a prompt as often as DPOTrainer runs it"
)
"""Why a trainer with that loss shares no prompts. Its reference, which is not asked for the loss, shares none either."""


def of_model(model: Any) -> str | None:
    """Why a model's forward can't share prompts exactly, or None.

    Args:
        model: a causal language model of transformers, or a PEFT model around one; not wrapped.
    """
    if is_peft_model(model):
        if any(config.is_prompt_learning for config in model.peft_config.values()):
            return "prompt-learning PEFT puts virtual tokens before every row"
        model = model.get_base_model()
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ()) - _EXACT_LAYERS
    if layers or getattr(model, "_is_stateful", False):
        kinds = f" ({', '.join(sorted(layers))})" if layers else ""
        return f"the model has recurrent or linear-attention layers{kinds}, in which branches would see each other"
    if model.config is not config or getattr(model.config, "is_encoder_decoder", False):
        return f"{type(model).__name__} is more than a text decoder"
    if not getattr(config, "is_causal", True):
        return "its attention is not causal"
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        return "the model is split over several devices (`device_map`)"
    attention = config._attn_implementation
    if not model.is_backend_compatible():
        return f"{type(model).__name__} does not call attention through transformers' interface"
    if attention not in {*IMPLEMENTATIONS, *IMPLEMENTATIONS.values()}:
        return f"its attention is {attention!r}; a layout can be given to {' and '.join(map(repr, IMPLEMENTATIONS))}"
    return _dropout(model)


def _dropout(model: Any) -> str | None:
    active = [m for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    if active:
        return "dropout is active (`disable_dropout: false`), and both responses would share the prompt's"
    if getattr(model.config, "attention_dropout", 0.0):
        return "the model's `attention_dropout` is not 0, and both responses would share the prompt's"
    return None


def of_call(kwargs: Mapping[str, Any]) -> str | None:
    """Why a forward can't run over unique tokens, or None.

    Args:
        kwargs: what the trainer hands the model.
    """
    if kwargs.get("output_router_logits"):
        return AUXILIARY_LOSS
    given = {name for name, value in kwargs.items() if value is not None}  # PEFT hands on what was not given, too
    beside = sorted(given - {*TOKENS, "use_cache", "fused_lm_head", "output_router_logits"})
    return f"the batch has {', '.join(map(repr, beside))} beside its tokens" if beside else None


def of_length(config: PretrainedConfig, longest: int) -> str | None:
    """Why a batch with rows of this length can't be laid out, or None.

    Args:
        config: of the model.
        longest: tokens of the longest row.
    """
    layers = getattr(config, "layer_types", None)
    for setting, kind in (("sliding_window", "sliding_attention"), ("attention_chunk_size", "chunked_attention")):
        span = getattr(config, setting, None)
        if span is not None and span < longest and (layers is None or kind in layers):
            return f"a row has {longest} tokens, more than the model's `{setting}` of {span}"
    return None
