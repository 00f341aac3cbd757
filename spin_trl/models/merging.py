"""Merging adapters into their base models: which can't be merged, and whether the result computes the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from ..errors import DataError
from .adapters import Policy, without_adapter

_WITHOUT_MERGE = ("ADAPTION_PROMPT", "CARTRIDGE", "LILY", "POLY", "SHADOW", "XLORA")
"""Types of adapters for which PEFT raises `NotImplementedError`, or has no such function: they depend on the input."""

MERGED_WITHIN = 1e-3
"""Maximum difference of probabilities after merging in float32. In half precision it is that of the weights' rounding."""

MERGED_WITHIN_IN_HALF_PRECISION = 0.1


def merge_refusals(config: PeftConfig) -> Iterator[str]:
    """Yield reasons, as sentences, why an adapter can't be merged into its base model.

    Args:
        config: configuration of the adapter.
    """
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning or kind in _WITHOUT_MERGE:
        yield f"It can't be merged into the base model either: what a {type(config).__name__} adds is no change of weights."
    if getattr(config, "alora_invocation_tokens", None):
        yield "It can't be merged into the base model either: it changes only what follows `alora_invocation_tokens`."
    if getattr(config, "layer_replication", None):
        yield "It can't be merged into the base model either: its repeated layers share their weights (`layer_replication`)."


def merged(adapted: PeftModel) -> PreTrainedModel:
    """Return the base model with its adapter merged into its weights. Both share them.

    If the output layer shares weights with input embeddings that alone have an adapter, it gets its own copy.

    Args:
        adapted: model whose base is not quantised.
    """
    base = without_adapter(adapted)
    embeddings, output = base.get_input_embeddings(), base.get_output_embeddings()
    has_adapter_alone = isinstance(embeddings, BaseTunerLayer) and not isinstance(output, BaseTunerLayer)
    if has_adapter_alone and output is not None and output.weight is embeddings.weight:
        assert isinstance(output.weight, torch.Tensor)
        output.weight = torch.nn.Parameter(output.weight.detach().clone(), requires_grad=False)
    whole: PreTrainedModel = adapted.merge_and_unload()
    layers = whole.get_input_embeddings(), whole.get_output_embeddings()
    if getattr(layers[0], "weight", None) is not getattr(layers[1], "weight", None):
        for config in (whole.config, whole.config.get_text_config()):
            config.tie_word_embeddings = False
    return whole


def merged_alike(adapted: PeftModel, prompt: Sequence[int]) -> PreTrainedModel:
    """Merge an adapter as [`merged`] does, and check that the next token's probabilities are the same after it.

    Args:
        adapted: model whose base is not quantised, on a device where it can run.
        prompt: ids of some tokens.

    Raises:
        DataError: if PEFT can't merge the adapter, or the merged model computes something else.
    """
    adapted.eval()
    before = _probabilities(adapted, prompt)
    dtype = next(adapted.parameters()).dtype
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of tied embeddings, which `merged` separates
            whole = merged(adapted)
    except (NotImplementedError, ValueError, RuntimeError, AttributeError) as error:
        raise DataError(f"PEFT can't merge the adapter into its base model: {error}") from error
    distance = (before - _probabilities(whole, prompt)).abs().sum(-1).mean().item() / 2
    limit = MERGED_WITHIN if dtype in (torch.float32, torch.float64) else MERGED_WITHIN_IN_HALF_PRECISION
    if not distance <= limit:  # NaN is not
        raise DataError(
            f"The adapter can't be merged into its base model: the probabilities of the next token would change by "
            f"{distance:.3g} on average, more than rounding does ({limit:g})."
        )
    return whole


def _probabilities(model: Policy, prompt: Sequence[int]) -> torch.Tensor:
    """Return the next token's probabilities after each token of a prompt, of shape (tokens, vocabulary)."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(prompt)], device=model.device)).logits[0]
    return logits.float().softmax(-1)
