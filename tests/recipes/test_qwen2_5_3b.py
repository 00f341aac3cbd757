"""`qwen2.5-3b` runs all iterations on a tiny Qwen2: full fine-tuning on eight GPUs, or LoRA on one, each with its own
YAML.
"""

from pathlib import Path

import pytest
from safetensors import safe_open

from recipes import small

pytestmark = pytest.mark.slow

ORDERS = [2.5, 1.8, 1.4, 1.2, 0.9]


def test_all_weights_are_trained_for_five_iterations(tmp_path: Path) -> None:
    """IRIS uses the orders that the paper reports for this model."""
    run = small.play("qwen2.5-3b", small.qwen2(tmp_path / "model"), small.conversations(small.ROWS + small.HELD_OUT))
    for iteration, order in enumerate(ORDERS):
        entry = small.journal(run, "train", f"iteration-{iteration}")
        assert entry["objective"]["iris_alpha"] == pytest.approx(order)
        assert (entry["pairs"]["total"], entry["steps"]) == (small.ROWS, 6)
    with safe_open(run / "iteration-4" / "model" / "model.safetensors", "pt") as weights:
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118 - tied: stored once


def test_the_lora_variant_goes_beyond_the_second_adapter(tmp_path: Path) -> None:
    """One adapter is trained for five iterations; none of them saves the opponent's frozen copy."""
    rows = small.conversations(small.ROWS + small.HELD_OUT)
    run = small.play("qwen2.5-3b/lora", small.qwen2(tmp_path / "model"), rows)
    for iteration, order in enumerate(ORDERS):
        stage = f"iteration-{iteration}"
        entry = small.journal(run, "train", stage)
        assert entry["objective"]["iris_alpha"] == pytest.approx(order)
        assert entry["steps"] == 2  # two epochs of 20 pairs, at 64 per step
        files = {path.name for path in (run / stage / "model").rglob("*.safetensors")}
        assert files == {"adapter_model.safetensors"}
        with safe_open(run / stage / "model" / "adapter_model.safetensors", "pt") as adapter:
            names = list(adapter.keys())
        assert {name.rpartition(".layers.0.")[2] for name in names} >= {"mlp.down_proj.lora_A.weight"}
        assert not any("ref" in name.split(".") for name in names)
