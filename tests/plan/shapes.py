"""Configurations of published models, in folders without weights, and recipes that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from transformers import MistralConfig, PretrainedConfig, Qwen2Config

ZEPHYR = MistralConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=32768,
    sliding_window=4096,
)


def qwen(hidden: int, layers: int, heads: int, intermediate: int) -> Qwen2Config:
    """Return the configuration of a Qwen2.5 of a size, with tied embeddings."""
    return Qwen2Config(
        vocab_size=151936,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=32768,
    )


QWEN_05B = qwen(896, 24, 14, 4864)
QWEN_3B = qwen(2048, 36, 16, 11008)


def small(**changes: Any) -> Qwen2Config:
    """Return the configuration of a Qwen2 that takes a second to plan."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2Config(**{**sizes, **heads, **changes})


def folder(path: Path, config: PretrainedConfig) -> Path:
    """Return a folder that holds only a config.json."""
    config.save_pretrained(path)
    assert [file.name for file in path.iterdir()] == ["config.json"]
    return path


def recipe(path: Path, model: Path | str, **settings: Any) -> str:
    """Write a recipe for GPUs with a dataset that does not exist; return its path."""
    file = path / "planned.yaml"
    known = {"model_name_or_path": str(model), "dataset_name": "nobody/nothing", "max_rows": 640, "max_length": 256}
    file.write_text(yaml.safe_dump({**known, "num_iterations": 2, "report_to": "none", **settings}), encoding="utf-8")
    return str(file)
