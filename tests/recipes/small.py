"""Shrinks a recipe for large GPUs to the size of a test: a tiny model of the same family, other data, a CPU.

All other settings of a recipe are unchanged, so that the tests play what the recipe plays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

import tiny
from spin_trl.cli import main

ROWS = 20
HELD_OUT = 4

# Like Zephyr's template: every turn ends with EOS and a newline that belongs to the template.
ZEPHYR = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

SIZE: Mapping[str, Any] = {
    "max_rows": ROWS,
    "held_out_max": HELD_OUT,
    "max_length": 96,
    "max_new_tokens": 12,
    "generation_batch_size": 8,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "run_dir": "run",
}
"""Settings for a CPU, few rows and short responses."""


def mistral(folder: Path) -> Path:
    """Return a tiny model of Zephyr's family, with a template like Zephyr's."""
    return tiny.save(folder, tiny.model("mistral"), tiny.tokenizer(chat_template=ZEPHYR, eos_token=tiny.END_OF_TEXT))


def qwen2(folder: Path) -> Path:
    """Return a tiny Qwen2 with tied embeddings, like the small Qwen2.5 models."""
    return tiny.save(folder, tiny.model("qwen2", tie_word_embeddings=True))


def conversations(count: int) -> Dataset:
    """Return rows like UltraChat's: conversations of several rounds, and unneeded columns."""
    rows = tiny.sft(count, "multi-turn")
    return rows.add_column("prompt", [row["messages"][0]["content"] for row in rows]).add_column(
        "prompt_id", [f"id-{number}" for number in range(count)]
    )


def problems(count: int) -> Dataset:
    """Return rows like GSM8K's: a question, and an answer with its answer line."""
    return Dataset.from_list(
        [
            {
                "question": f"Ann has {n} boats and buys {n % 5}. How many?",
                "answer": f"{n} + {n % 5} = <<{n}+{n % 5}={n + n % 5}>>{n + n % 5}\n#### {n + n % 5}",
            }
            for n in range(count)
        ]
    )


def play(name: str, model: Path, rows: Dataset, **settings: Any) -> Path:
    """Play a whole shipped recipe at a small size; return the run directory.

    Args:
        name: name of the recipe.
        model: model to use instead of the recipe's.
        rows: rows to use instead of the recipe's data; the last ones are held out.
        settings: further settings needed on a machine without a GPU, or without the Hub.
    """
    count = len(rows) - HELD_OUT
    train = tiny.write_jsonl("train.jsonl", rows.select(range(count)))
    held_out = tiny.write_jsonl("test.jsonl", rows.select(range(count, len(rows))))
    swapped = {
        "model_name_or_path": str(model), "model_revision": "main", "accelerate_config": "",
        "dataset_name": str(train), "held_out_name": str(held_out), **SIZE, **settings,
    }  # fmt: skip
    arguments = [part for key, value in swapped.items() for part in (f"--{key}", str(value))]
    assert main(["run", name, *arguments]) == 0
    return Path("run")


def journal(run: Path, phase: str, stage: str) -> dict[str, Any]:
    """Return the journal entry of a phase of a stage."""
    entries = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    return next(entry for entry in entries if (entry["phase"], entry["stage"]) == (phase, stage))


def figures(run: Path, stage: str) -> dict[str, float]:
    """Return the held-out figures of a stage."""
    return json.loads((run / stage / "metrics.json").read_text(encoding="utf-8"))
