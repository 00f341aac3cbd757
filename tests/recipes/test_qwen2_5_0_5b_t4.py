"""`qwen2.5-0.5b-t4` runs on a tiny Qwen2 on the CPU: 4-bit weights, LoRA, three iterations, each recipe with its own
YAML.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from recipes import small
from spin_trl.training.trainer import SPINTrainer

pytestmark = pytest.mark.slow

ALONE = {"push_to_hub": False}
"""Everything else is as on the T4, also on a CPU: 4 bits, float16 and its scaler, the paged 8-bit optimiser."""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record each iteration's training setup: layer classes, adapter dtypes, optimiser."""
    found: list[dict[str, Any]] = []
    train = SPINTrainer.train

    def spy(self: SPINTrainer, *args: Any, **kwargs: Any) -> Any:
        result = train(self, *args, **kwargs)
        if type(self) is not SPINTrainer:  # the rehearsal that precedes a run
            return result
        found.append(
            {
                "layers": {type(module).__name__ for module in self.model.modules()},
                "dtypes": {parameter.dtype for parameter in self.model.parameters() if parameter.requires_grad},
                "optimiser": type(self.optimizer.optimizer).__module__,
            }
        )
        return result

    monkeypatch.setattr(SPINTrainer, "train", spy)
    return found


def check(run: Path, trained: list[dict[str, Any]]) -> None:
    assert len(trained) == 3
    for iteration, one in enumerate(trained):
        assert "Linear4bit" in one["layers"]
        assert one["dtypes"] == {torch.float32}
        assert one["optimiser"] == "bitsandbytes.optim.adamw"
        stage = f"iteration-{iteration}"
        with safe_open(run / stage / "model" / "adapter_model.safetensors", "pt") as adapter:
            assert all(adapter.get_tensor(name).isfinite().all() for name in adapter.keys())  # noqa: SIM118
        assert 0 < small.figures(run, stage)["nll"] < 10


def test_gsm8k_is_asked_in_the_chat_template_and_scored(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    """In three iterations, right answers are counted in any format, and GSM8K's format separately."""
    run = small.play(
        "qwen2.5-0.5b-t4", small.qwen2(tmp_path / "model"), small.problems(small.ROWS + small.HELD_OUT), **ALONE
    )
    check(run, trained)
    assert [small.journal(run, "train", f"iteration-{t}")["pairs"]["total"] for t in range(3)] == [20, 40, 40]
    figures = small.figures(run, "iteration-2")
    assert {"score/last_number", "score/gsm8k.exact_match", "score/gsm8k.format"} <= set(figures)
    sample = (run / "iteration-2" / "samples.jsonl").read_text(encoding="utf-8")
    assert "How many?" in sample
    assert "<|im_start|>user" not in sample  # a conversation, not text that looks like one


def test_ultrachat_is_played_with_space(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    """It uses the first rounds; the best is chosen by the likelihood of the human answers."""
    rows = small.conversations(small.ROWS + small.HELD_OUT)
    run = small.play("qwen2.5-0.5b-t4/ultrachat", small.qwen2(tmp_path / "model"), rows, **ALONE)
    check(run, trained)
    assert small.journal(run, "train", "iteration-2")["objective"]["space_mu"] == 1
