"""The time of `spin-trl plan`, compared with importing the libraries it needs.

Plans a Llama with 0.13B parameters from its configuration, with a synthetic tokenizer and JSONL file of 2,000 rows. Plan and
peer are separate processes; the peer only imports TRL, transformers' Llama, PEFT and datasets.

    python benchmarks/plan_time.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig

from report import seconds_of
from spin_trl import StartConfig
from spin_trl.training.scratch import build_tokenizer

TARGET = 1.5
"""Maximum CPU time of a plan, relative to the imports."""

IMPORTS = (
    "import datasets, peft, torch; from transformers import LlamaForCausalLM; from trl import DPOTrainer, TrlParser"
)


def make_recipe(folder: Path) -> Path:
    """Write a model without weights, its tokenizer, rows and a recipe that names them; return the recipe's path."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnoprstuvwz", k=rng.randint(2, 9))) for _ in range(5_000)]

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randint(5, 40)))

    rows = [{"prompt": text(), "completion": text()} for _ in range(2_000)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = build_tokenizer(iter(row["prompt"] for row in rows), StartConfig(), 2048)
    tokenizer.save_pretrained(folder / "model")
    LlamaConfig(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder / "model")
    settings = {
        "model_name_or_path": str(folder / "model"),
        "dataset_name": str(folder / "rows.jsonl"),
        "max_length": 512,
        "max_new_tokens": 256,
        "num_iterations": 3,
        "report_to": "none",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder / "recipe.yaml"


def main() -> int:
    """Time plan and imports in turn and print the table. Return 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    plans, peers = [], []
    with tempfile.TemporaryDirectory() as temporary:
        recipe = make_recipe(Path(temporary))
        for _ in range(options.repeats):
            peers.append(seconds_of("-c", IMPORTS))
            plans.append(seconds_of("-m", "spin_trl", "plan", str(recipe)))
    table = Table(title="Planning a Llama with 0.13B parameters")
    for heading in ("", "seconds, best", "worst", "of CPU, best"):
        table.add_column(heading, justify="right" if heading else "left")
    best = {}
    for name, found in (("spin-trl plan", plans), ("importing the libraries", peers)):
        clock, processor = zip(*found, strict=True)
        best[name] = min(processor)
        table.add_row(name, f"{min(clock):.2f}", f"{max(clock):.2f}", f"{min(processor):.2f}")
    console = Console()
    console.print(table)
    ratio = best["spin-trl plan"] / best["importing the libraries"]
    console.print(f"{ratio:.2f} times the CPU time of the imports (target: at most {TARGET}).")
    return int(ratio > TARGET)


if __name__ == "__main__":
    sys.exit(main())
