"""A server takes the memory that is free, or that its responses need."""

import pytest
from transformers import LlamaConfig, MambaConfig

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.generation.vllm.memory import BYTES_PER_GIB, kv_bytes_per_token, kv_cache_bytes, memory_share


@pytest.mark.parametrize(
    ("free", "total", "share"),
    [
        (80 * BYTES_PER_GIB, 80 * BYTES_PER_GIB, 0.95),
        (41 * BYTES_PER_GIB, 80 * BYTES_PER_GIB, 0.5),
        (10 * BYTES_PER_GIB, 16 * BYTES_PER_GIB, 0.562),  # 9/16 = 0.5625, rounded down
    ],
)
def test_a_server_gets_the_memory_that_is_free(free: int, total: int, share: float) -> None:
    assert memory_share(free, total) == share
    assert share * total <= free - BYTES_PER_GIB or share == 0.95


def test_a_gpu_that_is_full_is_refused() -> None:
    with refused(RecipeError, "0.5", "80.0"):
        memory_share(BYTES_PER_GIB // 2, 80 * BYTES_PER_GIB)


def test_keys_and_values_are_those_of_whole_blocks() -> None:
    """SmolLM2-135M in float32: 2 x 30 layers x 3 heads x 64 x 4 bytes = 46,080 bytes a token, for 8 x 256 + 128 tokens."""
    config = LlamaConfig(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3)
    assert kv_cache_bytes(config, 8, 200, 4) == kv_cache_bytes(config, 8, 256, 4) == 100_270_080
    assert kv_cache_bytes(config, 8, 257, 2) == (8 * 384 + 128) * 46_080 / 2


@pytest.mark.parametrize(("parallel", "expected"), [(1, 131_072), (2, 65_536), (16, 16_384)])
def test_every_gpu_has_its_heads_keys_and_values(parallel: int, expected: int) -> None:
    """Llama-3.1-8B in bfloat16: 2 x 32 layers x 8 heads x 128 x 2 bytes; of more GPUs than heads, each has one head."""
    config = LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8)
    assert kv_bytes_per_token(config, 2, parallel) == expected


def test_a_model_without_attention_has_no_keys() -> None:
    assert kv_cache_bytes(MambaConfig(), 8, 256, 4) is None
