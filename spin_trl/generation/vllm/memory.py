"""How much memory a server may use: a share of a GPU, or on a CPU the keys and values of what is generated at once."""

from __future__ import annotations

from transformers import PreTrainedConfig

from ...errors import RecipeError
from .refusals import head_size_of

BYTES_PER_GIB = 1 << 30

BLOCK_TOKENS = 128
"""Tokens for which vLLM reserves keys and values at a time on a CPU; on a GPU they are fewer."""


def memory_share(free: int, total: int, margin: int = BYTES_PER_GIB) -> float:
    """Return the share of a GPU's memory that a server may use, for `--gpu-memory-utilization`.

    vLLM takes the share of the total, and refuses to start if less is free at that moment.

    Args:
        free: free bytes now, before the server starts.
        total: bytes of the GPU.
        margin: bytes to leave free: the server's own context takes about half a GiB before vLLM looks.

    Returns:
        A share with three digits, rounded down, at most 0.95.

    Raises:
        RecipeError: if nothing is left.
    """
    share = int(1000 * (free - margin) / total) / 1000
    if share <= 0:
        sizes = f"{free / BYTES_PER_GIB:.1f} of {total / BYTES_PER_GIB:.1f} GiB"
        raise RecipeError(f"Only {sizes} are free on the GPU: other processes use it (`nvidia-smi` lists them).")
    return min(share, 0.95)


def kv_cache_bytes(config: PreTrainedConfig, sequences: int, max_length: int, number_bytes: int) -> int | None:
    """Return the bytes for `--kv-cache-memory-bytes`: the keys and values of responses that are generated at once.

    On a CPU, vLLM would otherwise take 92 % of the machine's memory, and refuse to start if less is free.

    Args:
        config: configuration of the model.
        sequences: maximum responses at the same time (`--max-num-seqs`).
        max_length: maximum tokens of a prompt and its response together.
        number_bytes: bytes of a number: 4 for float32, 2 for bfloat16.

    Returns:
        The bytes, with every sequence rounded up to whole blocks, and one block more, which vLLM keeps empty. None if the
        configuration does not tell.
    """
    of_token = kv_bytes_per_token(config, number_bytes)
    if of_token is None:
        return None
    blocks = sequences * -(-max_length // BLOCK_TOKENS) + 1
    return of_token * blocks * BLOCK_TOKENS


def kv_bytes_per_token(config: PreTrainedConfig, number_bytes: int, tensor_parallel: int = 1) -> int | None:
    """Return the bytes of a token's keys and values on each GPU, or None if the configuration does not tell.

    Args:
        config: configuration of the model.
        number_bytes: bytes of a number: 4 for float32, 2 for bfloat16.
        tensor_parallel: number of GPUs that the model is divided among. Each has at least one head.
    """
    text = config.get_text_config()
    layers, heads = getattr(text, "num_hidden_layers", None), getattr(text, "num_attention_heads", None)
    size = head_size_of(config)
    if layers is None or heads is None or size is None:
        return None
    heads = getattr(text, "num_key_value_heads", None) or heads
    return int(2 * layers * -(-heads // tensor_parallel) * size * number_bytes)
