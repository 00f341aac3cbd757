"""Reasons why vLLM can't generate with a model or an adapter as this run does; an adapter can then be merged instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from peft import LoraConfig, PeftConfig
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from ...errors import DataError
from ...models.adapters import WEIGHTS, load_adapter_config
from .flags import LORA_RANKS

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Head sizes that vLLM's attention on a CPU computes (vllm/v1/attention/backends/cpu_attn.py of 0.31)."""

_LORA_WEIGHTS = ("lora_A.weight", "lora_B.weight")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out")
_BASE_CHANGING = ("pissa", "olora", "loftq", "corda", "lora_ga")


def adapter_folder_refusals(folder: Path) -> Iterator[str]:
    """Yield reasons, as sentences, why vLLM can't load a saved adapter, or would generate with other weights than PEFT.

    Raises:
        DataError: if its files can't be read.
    """
    yield from lora_refusals(load_adapter_config(folder))
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder / WEIGHTS} can't be read: {error}") from error
    yield from _weight_refusals(names)


def lora_refusals(config: PeftConfig) -> Iterator[str]:
    """Yield reasons, as sentences, why vLLM can't load adapters of a configuration, or would compute something else.

    vLLM reads the rank, `lora_alpha`, `use_rslora` and `bias`, and refuses DoRA and `modules_to_save`
    (vllm/lora/peft_helper.py of 0.31). It ignores every other setting without a message, so those that change the result
    are refused here. rsLoRA is supported.
    """
    if not isinstance(config, LoraConfig) or getattr(config.peft_type, "value", config.peft_type) != "LORA":
        yield f"The adapter is {type(config).__name__}, and vLLM loads LoRA only."
        return
    if config.r > LORA_RANKS[-1]:
        yield f"`lora_r` is {config.r}, and vLLM loads adapters up to rank {LORA_RANKS[-1]}."
    if config.use_dora:
        yield "vLLM does not support DoRA (`use_dora`)."
    if config.modules_to_save:
        yield f"vLLM loads no whole layers from an adapter (`lora_modules_to_save`: {', '.join(config.modules_to_save)})."
    if config.bias != "none":
        yield f"vLLM loads no biases from an adapter (`bias: {config.bias}`)."
    if config.lora_bias:
        yield "vLLM loads no biases from an adapter (`lora_bias`)."
    if config.trainable_token_indices:
        yield "vLLM loads no rows of embeddings from an adapter (`trainable_token_indices`)."
    for name in ("rank_pattern", "alpha_pattern"):
        if getattr(config, name):
            yield f"vLLM scales all layers by the same rank and `lora_alpha`, and ignores `{name}`."
    if config.layer_replication:
        yield "vLLM does not repeat the base model's layers (`layer_replication`)."
    if getattr(config, "alora_invocation_tokens", None):
        yield "vLLM would apply the adapter to every token, and ignores `alora_invocation_tokens`."
    initialisation = config.init_lora_weights
    if isinstance(initialisation, str) and initialisation.lower().startswith(_BASE_CHANGING):
        yield f"`init_lora_weights: {initialisation}` changes the base model's weights, which vLLM reads unchanged."
    targets = config.target_modules or []
    if isinstance(targets, str):  # a regular expression, or `all-linear`, which leaves embeddings out
        targets = []
    embeddings = sorted(name for name in targets if name.rpartition(".")[2] in _EMBEDDINGS)
    if embeddings:
        yield f"`target_modules` adapts embeddings ({', '.join(embeddings)}), which vLLM supports for few models."


def _weight_refusals(names: Iterable[str]) -> Iterator[str]:
    """Yield a reason if an adapter has other weights than LoRA's two matrices, such as embeddings with added tokens."""
    others = [name for name in names if not name.endswith(_LORA_WEIGHTS)]
    if others:
        yield f"The adapter has other weights than LoRA's, such as {others[0]} (added tokens?), which vLLM does not load."


def head_size_of(config: PreTrainedConfig) -> int | None:
    """Return the size of a model's attention heads, or None if its configuration does not tell."""
    config = config.get_text_config()
    size = getattr(config, "head_dim", None)
    hidden, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    return size or (hidden // heads if hidden and heads else None)


def cpu_refusals(config: PreTrainedConfig) -> Iterator[str]:
    """Yield a reason, as a sentence, if vLLM can't compute a model's attention on a CPU."""
    size = head_size_of(config)
    if size is not None and size not in CPU_HEAD_SIZES:
        known = ", ".join(map(str, CPU_HEAD_SIZES))
        yield f"The model's head size is {size}, and on a CPU vLLM computes heads of {known} only."
