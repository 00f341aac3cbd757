"""Reasons why a forward can't run over unique tokens, in words for the user, or None.

No set of rules covers every model, so the last check runs the model.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers import PretrainedConfig

from .attention import IMPLEMENTATIONS
from .head import TOKENS, Forward, over_rows, over_unique_tokens
from .layout import lay_out

_EXACT_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "mlp", "moe"}
"""Kinds of layers whose tokens see other tokens only through attention, or not at all."""

AUXILIARY_LOSS = (
    "the auxiliary loss of a mixture of experts counts a prompt's tokens once for each time DPOTrainer runs the prompt"
)
"""Why a trainer with that loss shares no prompts. Nor does its reference, though it does not compute the loss."""

NOISE_PER_TOKEN = {torch.float64: 1e-8, torch.float32: 2e-4, torch.float16: 5e-2, torch.bfloat16: 3e-1}
"""Largest difference, in nats, between two computations of the same log-probability, to be multiplied by the square root of
the number of tokens, since tokens' errors are independent. Measured differences are a tenth of this or less."""


def of_model(model: Any) -> str | None:
    """Return why a model's forward can't share prompts exactly, or None.

    Args:
        model: causal language model of transformers, or a PEFT model around one; not wrapped.
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
        return f"its attention is {attention!r}; layouts are supported with {' and '.join(map(repr, IMPLEMENTATIONS))}"
    if any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()):
        return "dropout is active (`disable_dropout: false`), and both responses would share the prompt's dropout mask"
    if getattr(model.config, "attention_dropout", 0.0):
        return "the model's `attention_dropout` is not 0, and both responses would share the prompt's dropout mask"
    return None


def of_call(kwargs: Mapping[str, Any]) -> str | None:
    """Return why a call of the forward can't run over unique tokens, or None.

    Args:
        kwargs: arguments that the trainer passes to the model.
    """
    if kwargs.get("output_router_logits"):
        return AUXILIARY_LOSS
    given = {
        name for name, value in kwargs.items() if value is not None
    }  # PEFT also passes arguments that were not given
    beside = sorted(given - {*TOKENS, "use_cache", "fused_lm_head", "output_router_logits"})
    return f"the batch has {', '.join(map(repr, beside))} in addition to its tokens" if beside else None


def of_length(config: PretrainedConfig, longest: int) -> str | None:
    """Return why a batch with rows of this length can't be laid out, or None.

    Args:
        config: configuration of the model.
        longest: tokens in the longest row.
    """
    layers = getattr(config, "layer_types", None)
    for setting, kind in (("sliding_window", "sliding_attention"), ("attention_chunk_size", "chunked_attention")):
        span = getattr(config, setting, None)
        if span is not None and span < longest and (layers is None or kind in layers):
            return f"a row has {longest} tokens, more than the model's `{setting}` of {span}"
    return None


@torch.no_grad()
def why_inexact(model: Any, forward: Forward, device: torch.device, tolerance: float) -> str | None:
    """Run a small pair both ways, as in training; return why the results differ, or None.

    Args:
        model: model with TRL's fused LM head.
        forward: forward of its class, with that head.
        device: device of its inputs.
        tolerance: largest difference of a token's log-probability, in nats.
    """
    name = type(model).__name__
    ids = torch.arange(8, device=device) % model.config.get_text_config().vocab_size
    input_ids = torch.stack([torch.cat([ids[:5], ids[:1]]), torch.cat([ids[:3], ids[5:]])])
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, -1] = 0
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    labels[:, :3] = -100
    tokens = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    kwargs = {**tokens, "use_cache": False, "fused_lm_head": True}
    with _as_in_training(model, device):
        expected, again = (over_rows(model, forward, kwargs).log_probs for _ in range(2))
        if _largest_difference(expected, again) > tolerance / 10:
            return f"{name} draws random numbers in training, and both responses would share their prompt's"
        try:
            found = over_unique_tokens(model, forward, kwargs, lay_out(**tokens, num_pairs=1)).log_probs
        except Exception as error:
            return f"{name} does not run over a row of unique tokens ({error})"
    difference = _largest_difference(expected, found)
    if difference <= tolerance:
        return None
    return f"{name} gives different log-probabilities over unique tokens (by {difference:.3g} nats per token)"


def _largest_difference(one: Any, other: Any) -> float:
    return float((one - other).abs().max().nan_to_num(torch.inf))


@contextlib.contextmanager
def _as_in_training(model: Any, device: torch.device) -> Iterator[None]:
    """Put a model in training mode; restore its modes and the random state afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # checkpointing warns that there are no gradients
            yield
    finally:
        for module, mode in modes:
            module.training = mode
