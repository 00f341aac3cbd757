"""An iteration's pairs form a dataset that TRL's DPOTrainer accepts, and whose rows hold exactly what was generated."""

from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset, load_dataset
from trl import DPOConfig, DPOTrainer

import tiny
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.generation.generations import Generations
from spin_trl.generation.store import SCHEMA
from spin_trl.hub.dataset import MESSAGES_LAYOUT, PLAIN, RENDERED, form_of, info_of, pairs_of, write_pairs


def prepared(rows: Dataset) -> Dataset:
    return prepare(rows, PairTemplate(tiny.tokenizer()))


def answered(rows: Dataset, texts: list[str], reasons: list[str] | None = None, samples: int = 1) -> Generations:
    """Return generations with these texts, with an end token where they ended."""
    tokenizer = tiny.tokenizer()
    reasons = reasons or ["eos"] * len(texts)
    lines = []
    for number, (key, text, reason) in enumerate(zip(rows["key"], texts, reasons, strict=True)):
        for sample in range(samples):
            ids = tokenizer(text + f" {sample}" * (sample > 0))["input_ids"]
            ids = ids + [tokenizer.eos_token_id] if reason == "eos" else ids
            lines.append({"key": key, "sample": sample, "ids": ids, "finish_reason": reason, "length": len(ids)})
        assert number < len(texts)
    return Generations({0: pa.Table.from_pylist(lines, schema=SCHEMA)})


def test_conversations_become_messages() -> None:
    source = tiny.sft(3, "multi-turn")
    rows = prepared(source)
    assert form_of(rows) == MESSAGES_LAYOUT
    found = list(pairs_of(rows, answered(rows, ["a boat", "a kite", ""]), tiny.tokenizer(), MESSAGES_LAYOUT))
    assert [pair["prompt"] for pair in found] == [row["messages"][:3] for row in source]
    assert [pair["chosen"] for pair in found] == [row["messages"][3:] for row in source]
    assert found[0]["rejected"] == [{"role": "assistant", "content": "a boat"}]
    assert [pair["key"] for pair in found] == rows["key"][:]


def test_text_stays_text() -> None:
    source = tiny.sft(2)
    rows = prepared(source)
    assert form_of(rows) == PLAIN
    (first, _) = pairs_of(rows, answered(rows, [" No.", " Yes."], ["length", "eos"]), tiny.tokenizer(), PLAIN)
    assert (first["prompt"], first["chosen"]) == (source[0]["prompt"], source[0]["completion"])
    assert (first["rejected"], first["finish_reason"], first["sample"]) == (" No.", "length", 0)
    assert first["generated_tokens"] == len(tiny.tokenizer()(" No.")["input_ids"])


def test_what_messages_cant_say_is_written_as_the_template_made_it() -> None:
    """This includes rows prepared by an earlier version, which hold no messages."""
    rows = prepared(tiny.sft(2, "messages")).remove_columns("conversation")
    assert form_of(rows) == RENDERED
    tokenizer = tiny.tokenizer()
    (first, _) = pairs_of(rows, answered(rows, ["a boat", "a kite"]), tokenizer, RENDERED)
    assert first["prompt"].startswith("<|im_start|>user")
    assert tokenizer(first["prompt"] + first["chosen"])["input_ids"] == rows[0]["prompt_ids"] + rows[0]["real_ids"]


@pytest.mark.parametrize("kind", ["prompt-completion", "messages", "multi-turn"])
def test_the_files_load_straight_into_dpo_trainer(kind: str, tmp_path: Path, llama_folder: Path) -> None:
    """They are loaded with `load_dataset`, and DPOTrainer sees the generated tokens."""
    rows = prepared(tiny.sft(4, kind))
    generations = answered(rows, ["a boat", "a kite", "none", "it"], samples=2)
    files = write_pairs(tmp_path / "iteration-0", rows, generations, tiny.tokenizer())
    pairs = load_dataset("parquet", data_files=[str(path) for path in files], split="train")
    assert len(pairs) == 8
    assert set(pairs.column_names) == {
        "prompt", "chosen", "rejected", "key", "sample", "finish_reason", "generated_tokens",
    }  # fmt: skip
    args = DPOConfig("dpo", use_cpu=True, bf16=False, report_to="none", disable_tqdm=True)
    trainer = DPOTrainer(str(llama_folder), args=args, train_dataset=pairs, processing_class=tiny.tokenizer())
    first = trainer.train_dataset[0]
    assert first["prompt_ids"] == rows[0]["prompt_ids"]
    assert first["rejected_ids"][: len(generations[rows[0]["key"], 0, 0])] == generations[rows[0]["key"], 0, 0]


def test_a_card_knows_shares_without_a_tokenizer() -> None:
    rows = prepared(tiny.sft(3))
    real = [tiny.tokenizer().decode(row["real_ids"], skip_special_tokens=True) for row in rows]
    info = info_of(2, rows, answered(rows, [real[0], " other", " cut"], ["eos", "eos", "length"]))
    assert (info.iteration, info.form, info.rows, info.identical) == (2, PLAIN, 3, 1)
    assert info.finish_reasons == {"eos": 2, "length": 1}
