"""`zephyr-7b`: both recipes run all iterations with their own YAML, on a tiny Mistral with Zephyr's template."""

from pathlib import Path

import pytest
from datasets import load_from_disk
from transformers import AutoTokenizer

from recipes import small
from spin_trl.generation.store import GenerationStore

pytestmark = pytest.mark.slow


def test_spin_plays_four_iterations_with_the_history_of_one(tmp_path: Path) -> None:
    """From the second on, the previous iteration's pairs are trained on again; beta is 5 in the last."""
    run = small.play("zephyr-7b", small.mistral(tmp_path / "model"), small.conversations(small.ROWS + small.HELD_OUT))
    trained = [small.journal(run, "train", f"iteration-{t}") for t in range(4)]
    assert [entry["pairs"]["total"] for entry in trained] == [20, 40, 40, 40]
    assert [entry["steps"] for entry in trained] == [6, 10, 10, 10]  # two epochs, batches of 8
    assert [entry["objective"]["beta"] for entry in trained] == [0.1, 0.1, 0.1, 5.0]
    for iteration in range(4):
        assert small.journal(run, "generate", f"iteration-{iteration}")["tokens"] > 20
        assert small.figures(run, f"iteration-{iteration}")["held_out"] == small.HELD_OUT
    assert (run / "best" / "model.safetensors").is_file()
    # UltraChat's rows have several rounds; the paper uses the first.
    tokenizer = AutoTokenizer.from_pretrained(run / "best")
    first = load_from_disk(run / "data" / "train")[0]
    prompt, real = tokenizer.decode(first["prompt_ids"]), tokenizer.decode(first["real_ids"])
    assert prompt.startswith("<|user|>\n")
    assert prompt.count("<|user|>") == 1
    assert prompt.endswith("<|endoftext|>\n<|assistant|>\n")
    assert real.count("<|endoftext|>") == 1
    assert real.endswith("<|endoftext|>")


def test_iris_plays_five_iterations_with_the_published_orders(tmp_path: Path) -> None:
    """Each iteration is trained only on its own generations, sampled with T = 0.7 and top-p = 0.9."""
    rows = small.conversations(small.ROWS + small.HELD_OUT)
    run = small.play("zephyr-7b/iris", small.mistral(tmp_path / "model"), rows)
    for iteration, order in enumerate([3.0, 1.7, 1.4, 1.1, 0.7]):
        entry = small.journal(run, "train", f"iteration-{iteration}")
        assert entry["objective"]["iris_alpha"] == pytest.approx(order)
        assert entry["pairs"]["total"] == small.ROWS
        sampling = GenerationStore(run / f"iteration-{iteration}" / "generations").manifest()["sampling"]
        assert (sampling["temperature"], sampling["top_p"]) == (0.7, 0.9)
