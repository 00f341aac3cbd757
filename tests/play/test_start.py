"""θ_0 from scratch is a small Llama with its tokenizer, built once from the run's own data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from messages import refused
from runs import ROWS, build, entry, logp, steps, weights
from spin_trl.config.start import StartConfig
from spin_trl.errors import DataError, RecipeError
from spin_trl.training.scratch import TURN_END
from spin_trl.training.supervised import SupervisedTrainer

SMALL: dict[str, Any] = {
    "start_hidden_size": 32,
    "start_num_layers": 2,
    "start_num_heads": 2,
    "start_vocab_size": 300,
    "start_num_epochs": 3,
    "start_learning_rate": 1e-2,
}


def from_scratch(run_dir: str = "run", kind: str = "bpe", **settings: Any) -> Any:
    """Return a run that builds its start."""
    start = StartConfig(**{**SMALL, "start_tokenizer": kind, **settings.pop("start", {})})
    return build(None, run_dir, start=start, **{"num_iterations": 1, "max_length": 96, **settings})


# ---- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_a_start_is_made_trained_and_played_from(kind: str) -> None:
    """It has the requested sizes, is better than chance on its own data, and is the first opponent."""
    from_scratch(kind=kind).run()
    model = AutoModelForCausalLM.from_pretrained("run/start/model")
    tokenizer = AutoTokenizer.from_pretrained("run/start/model")
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 2)
    assert config.vocab_size == len(tokenizer)
    assert config.tie_word_embeddings
    made = entry("train", "start")
    assert made["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    rows = load_from_disk("run/data/train")
    tokens = sum(len(row["real_ids"]) for row in rows)
    nll = -sum(logp(model, row["prompt_ids"], row["real_ids"]) for row in rows) / tokens
    chance = torch.log(torch.tensor(float(len(tokenizer)))).item()
    assert nll < chance - 0.5
    assert entry("train", "iteration-0")["first"]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert steps()[:3] == [("prepare", "data"), ("train", "start"), ("evaluate", "start")]
    assert not Path("run/start/train").exists()


@pytest.mark.slow
def test_a_start_is_made_once_and_the_same_each_time() -> None:
    """It is kept when the run is resumed; built elsewhere with the same seed, it is bitwise the same."""
    from_scratch("one").run()
    stamp = Path("one/start/model/model.safetensors").stat().st_mtime_ns
    from_scratch("one", num_iterations=2).run()
    assert Path("one/start/model/model.safetensors").stat().st_mtime_ns == stamp
    from_scratch("two").run()
    assert weights("two/start/model") == weights("one/start/model")
    assert weights("two/iteration-0/model") == weights("one/iteration-0/model")
    from_scratch("three", seed=7).run_phase("start", 0)
    assert weights("three/start/model") != weights("one/start/model")


def test_held_out_prompts_are_not_seen_by_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start is trained on the rows that self-play trains on."""
    from spin_trl.play import supervise

    seen: list[set[str]] = []
    original = supervise.train_supervised
    monkeypatch.setattr(
        supervise, "train_supervised", lambda *args: (seen.append(set(args[2]["key"])), original(*args))[1]
    )
    from_scratch().run_phase("start", 0)
    held_out = set(load_from_disk("run/data/held-out")["key"])
    assert len(held_out) == 3
    assert len(seen[0]) == ROWS - 3
    assert not seen[0] & held_out


@pytest.mark.slow
def test_label_smoothing_leaves_a_flatter_start() -> None:
    """The quickstart's task needs this: the start's distribution keeps a tail."""
    entropies = []
    for smoothing in (0.0, 0.5):
        from_scratch(f"run-{smoothing}", start={"start_label_smoothing": smoothing, "start_num_epochs": 20}).run_phase(
            "start", 0
        )
        model = AutoModelForCausalLM.from_pretrained(f"run-{smoothing}/start/model")
        row = load_from_disk(f"run-{smoothing}/data/train")[0]
        with torch.no_grad():
            scores = model(torch.tensor([row["prompt_ids"] + row["real_ids"]])).logits[0].log_softmax(-1)
        entropies.append(float(-(scores.exp() * scores).sum(-1)[len(row["prompt_ids"]) :].mean()))
    assert entropies[1] > entropies[0] + 0.3


@pytest.mark.slow
def test_a_conversation_is_learned_in_its_template() -> None:
    """Messages work like text: a real response ends with its turn."""
    from_scratch(train_dataset=tiny.sft(ROWS, "messages")).run()
    tokenizer = AutoTokenizer.from_pretrained("run/start/model")
    row = load_from_disk("run/data/train")[0]
    assert tokenizer.decode(row["prompt_ids"]).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(row["real_ids"]).endswith(TURN_END)


@pytest.mark.slow
def test_an_interrupted_start_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it was killed before it was saved, it is trained again from scratch, with the same result."""

    from_scratch("whole").run_phase("start", 0)
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTrainer, "save_model", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            from_scratch().run_phase("start", 0)
    assert ("train", "start") not in steps()
    from_scratch().run_phase("start", 0)
    assert weights("run/start/model") == weights("whole/start/model")


def test_sizes_that_do_not_fit_are_refused() -> None:
    """Width and heads have to match; the message has both."""
    with refused(RecipeError, "`start_hidden_size`", 30, "`start_num_heads`", 4):
        StartConfig(start_hidden_size=30, start_num_heads=4)
    with refused(RecipeError, "`start_tokenizer`", "'words'"):
        StartConfig(start_tokenizer="words")


def test_data_that_can_not_be_used_leaves_no_start() -> None:
    """The row is named before anything is trained."""
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}]
    with refused(DataError, "Row 1", "completion", "`bad_rows: skip`"):
        from_scratch(train_dataset=Dataset.from_list(rows)).run()
    assert not Path("run/start/model").exists()
    assert not Path("run/journal.jsonl").exists()
