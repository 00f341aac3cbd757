"""Cases in which one thing was mistaken for another: a model with an adapter, ends, cached rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset
from peft import LoraConfig
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GenerationConfig

import tiny
from cases.playing import Command, adapter, chats, play, prepared, texts, with_bos, write_recipe
from runs import answers, entry, steps
from spin_trl import SPINConfig, SPINTrainer

TWO_ITERATIONS = [(phase, f"iteration-{number}") for number in (0, 1) for phase in ("generate", "train")]
WHOLE = ["embed_tokens", "lm_head", "norm"]
LORA = {"use_peft": True, "lora_r": 4, "num_iterations": 2}
OWN = tiny.tokenizer().eos_token_id


def saved(run: str, iteration: int) -> set[str]:
    """Return the names of the tensors in an iteration's adapter."""
    with safe_open(Path(run, f"iteration-{iteration}", "model", "adapter_model.safetensors"), framework="pt") as file:
        return set(file.keys())


def test_lora_with_whole_modules_plays_two_iterations(command: Command, llama_folder: Path) -> None:
    """Bug class: `modules_to_save` is forgotten when an adapter is disabled, copied or compared with its base."""
    settings = {"lora_target_modules": ["q_proj", "v_proj"], "lora_modules_to_save": WHOLE}
    play(command, write_recipe("my.yaml", llama_folder, **LORA, **settings), iterations=2)
    assert steps("runs/my")[1:] == TWO_ITERATIONS
    assert all(any(f"{module}.weight" in name for name in saved("runs/my", 1)) for module in WHOLE)


def test_lora_on_embeddings_plays_two_iterations(command: Command, llama_folder: Path) -> None:
    """Bug class: an adapter's `lora_embedding_A` differs from other layers, and the base is not what it was."""
    settings = {"lora_target_modules": ["q_proj", "embed_tokens"]}
    play(command, write_recipe("my.yaml", llama_folder, **LORA, **settings), iterations=2)
    assert steps("runs/my")[1:] == TWO_ITERATIONS
    assert any("lora_embedding" in name for name in saved("runs/my", 1))


def test_lora_on_embeddings_is_trained_twice_in_python(llama_folder: Path) -> None:
    """The same from Python: every `train()` is an iteration."""
    args = {"use_cpu": True, "bf16": False, "max_length": 64, "max_new_tokens": 4, "max_steps": 1, "report_to": "none"}
    trainer = SPINTrainer(
        str(llama_folder),
        args=SPINConfig("out", **args, save_strategy="no", disable_tqdm=True),
        train_dataset=Dataset.from_list(chats(4)),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM"),
    )
    assert [trainer.train().global_step for _ in range(2)] == [1, 1]


def test_an_adapters_base_may_name_several_ends(command: Command, tmp_path: Path) -> None:
    """Bug class: a second EOS in `generation_config.json` (Qwen2.5, Llama 3) is lost if the folder has an adapter."""
    base = tiny.model()
    base.generation_config = GenerationConfig(eos_token_id=[0, OWN], pad_token_id=0)
    tiny.save(tmp_path / "base", base)
    adapted = adapter(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "base")
    tiny.save(tmp_path / "sft", adapted)
    play(command, write_recipe("my.yaml", tmp_path / "sft"))
    assert steps("runs/my")[1:] == TWO_ITERATIONS[:2]
    # Both end a response, and the trained model names both again.
    assert all(ids[-1] in (0, OWN) or len(ids) == 8 for ids in answers("runs/my", "iteration-0").values())
    trained = GenerationConfig.from_pretrained("runs/my/iteration-0/model")
    assert sorted(trained.eos_token_id) == sorted([0, OWN])


# ---- cached rows -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return an empty cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def both(prepare: Command, tmp_path: Path, first: Any, second: Any) -> tuple[list[tuple[str, str]], ...]:
    """Return the rows of one file as prepared by two tokenizers, one after the other; their digests differ."""
    found = []
    for name, tokenizer in (("a", first), ("b", second)):
        model = tiny.save(tmp_path / name, processing_class=tokenizer)
        recipe = write_recipe(f"{name}.yaml", model, "texts.jsonl")
        prepare(recipe)
        found.append(prepared(f"runs/{name}", tokenizer))
    assert entry("prepare", "data", "runs/a")["template"] != entry("prepare", "data", "runs/b")["template"]
    return tuple(found)


@pytest.mark.usefixtures("cache")
def test_a_tokenizer_that_adds_bos_gets_no_rows_from_one_that_does_not(prepare: Command, tmp_path: Path) -> None:
    """Bug class: a cache identifies a tokenizer by its name or vocabulary, and returns rows prepared by another one."""
    tiny.write_jsonl("texts.jsonl", Dataset.from_list(texts()))
    without, with_one = both(prepare, tmp_path, tiny.tokenizer(), with_bos(tiny.tokenizer()))
    assert [prompt for prompt, _ in without] == [row["prompt"] for row in texts()]
    assert [prompt for prompt, _ in with_one] == [tiny.END_OF_TEXT + row["prompt"] for row in texts()]


@pytest.mark.usefixtures("cache")
def test_tokenizers_with_ends_of_their_own_share_no_rows(prepare: Command, tmp_path: Path) -> None:
    """The same class: they differ only in their EOS."""
    tiny.write_jsonl("texts.jsonl", Dataset.from_list(texts()))
    turns, whole = both(prepare, tmp_path, tiny.tokenizer(), tiny.tokenizer(eos_token=tiny.END_OF_TEXT))
    assert {real.removeprefix("The red boat.") for _, real in turns} == {tiny.IM_END}
    assert {real.removeprefix("The red boat.") for _, real in whole} == {tiny.END_OF_TEXT}
