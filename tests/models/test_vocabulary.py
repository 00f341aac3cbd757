"""A token without an embedding is named before anything runs, instead of causing an IndexError later."""

from pathlib import Path

from datasets import Dataset
from peft import LoraConfig, get_peft_model

import runs
import tiny
from messages import refused
from spin_trl import SPINConfig, SPINTrainer
from spin_trl.errors import DataError
from spin_trl.models.vocabulary import check_tokens, load_embeddings_size

SIZE = len(tiny.tokenizer())
LORA = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


def thinking(rows: int) -> Dataset:
    """Return conversations, two of which have an added token."""
    every = [dict(row) for row in tiny.sft(rows, "messages")]
    for row in every[2:4]:
        row["messages"] = [{**message, "content": message["content"] + "<|think|>"} for message in row["messages"]]
    return Dataset.from_list(every)


def extended(**special: object) -> object:
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens(special)
    return tokenizer


def prepared(*ids: list[int]) -> Dataset:
    return Dataset.from_dict({"prompt_ids": [[5, 6] for _ in ids], "real_ids": list(ids)})


def test_tokens_are_named_with_how_often_they_occur_and_both_sizes() -> None:
    tokenizer = extended(additional_special_tokens=["<|think|>", "<|tool|>"])
    rows = [prepared([7, SIZE], [8]), prepared([SIZE, SIZE + 1])]
    counts = (f"'<|think|>' (id {SIZE}, in 2 rows", f"'<|tool|>' (id {SIZE + 1}, in 1 row")
    with refused(DataError, f"{SIZE + 2} tokens", "'small'", SIZE, f"ids 0 to {SIZE - 1}", *counts):
        check_tokens(tokenizer, SIZE, "the model 'small'", rows)


def test_tokens_that_no_row_has_may_be_without() -> None:
    """Gemma 3's small models have an image token without an embedding. Padded embeddings are fine, too."""
    tokenizer = extended(additional_special_tokens=["<|image|>"])
    check_tokens(tokenizer, SIZE, "the model", [prepared([7, SIZE - 1])])
    check_tokens(tokenizer, SIZE + 64, "the model", [prepared([7, SIZE])])
    check_tokens(tokenizer, None, "the model", [prepared([7, SIZE])])


def test_the_pad_token_is_used_in_any_data() -> None:
    with refused(DataError, "'[PAD]'", "tokenizer.pad_token = tokenizer.eos_token"):
        check_tokens(extended(pad_token="[PAD]"), SIZE, "the model", [prepared([7])])


def test_the_size_is_known_without_loading(tmp_path: Path) -> None:
    """It is the size in a configuration, or that of an adapter's saved embeddings."""
    args = SPINConfig(use_cpu=True, bf16=False)
    base = tiny.save(tmp_path / "base")
    assert load_embeddings_size(base, args) == SIZE
    model = get_peft_model(tiny.model(), LoraConfig(**LORA))
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(tmp_path / "sft")
    assert load_embeddings_size(tmp_path / "sft", args) == SIZE
    model.get_base_model().resize_token_embeddings(SIZE + 3)
    model.save_pretrained(tmp_path / "resized")
    assert load_embeddings_size(tmp_path / "resized", args) == SIZE + 3
    assert load_embeddings_size(tmp_path / "missing", args) is None


def test_a_run_says_it_before_its_start_is_measured(tmp_path: Path) -> None:
    """The trainer says it before it trains."""
    tokenizer = extended(additional_special_tokens=["<|think|>"])
    folder = tiny.save(tmp_path / "model", processing_class=tokenizer)
    with refused(DataError, f"'<|think|>' (id {SIZE}, in 2 rows"):
        runs.build(folder, tmp_path / "run", train_dataset=thinking(15)).run()
    assert runs.journal(tmp_path / "run") == [] if (tmp_path / "run" / "journal.jsonl").exists() else True
    with refused(DataError, f"'<|think|>' (id {SIZE}, in 2 rows"):
        SPINTrainer(
            str(folder),
            args=SPINConfig(output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, max_length=64),
            train_dataset=thinking(6),
        )
