"""The recipes for one GPU at their real shapes, with random weights and made-up data: peak memory, time a step, and no NaN.

A recipe is played with its own YAML. Model and data are made on the spot, in the shapes of its own; nothing is downloaded,
and the Hub is left alone. Without a GPU, `--tiny` plays small shapes on the CPU, to see that the benchmark runs.

    python benchmarks/recipes.py [--recipes qwen2.5-0.5b-t4 qwen2.5-3b/lora] [--rows 256] [--iterations 3]
    python benchmarks/recipes.py --tiny
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from spin_trl import StartConfig
from spin_trl.cli import main as spin_trl
from spin_trl.play.start import build_tokenizer

QWEN: dict[str, Any] = {"vocab_size": 151_936, "tie_word_embeddings": True, "max_position_embeddings": 32_768}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b-t4": {
        **QWEN, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864,
    },
    "qwen2.5-3b/lora": {
        **QWEN, "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
        "intermediate_size": 11_008,
    },
}  # fmt: skip
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
}
"""Instead of these, on a CPU."""

LIMITS = {"qwen2.5-0.5b-t4": 15e9, "qwen2.5-3b/lora": 23e9}
"""Bytes that a recipe may take on the GPU that it names."""

WORDS = ("boat", "lamp", "seven", "paints", "because", "half", "and", "then", "buys", "how", "many", "of", "them")


@dataclass(frozen=True)
class Played:
    """What came of a recipe: bytes at the peak (0 on a CPU), seconds a step, sampled tokens a second; and no NaN."""

    peak: int
    step_seconds: float
    tokens_per_second: float
    is_finite: bool


def text(generator: random.Random, tokens: int) -> str:
    """Words that make about this many tokens."""
    return " ".join(generator.choices(WORDS, k=max(tokens * 3 // 4, 1)))


def build(folder: Path, shape: dict[str, Any], rows: int, *, prompt: int, real: int) -> None:
    """A model with random weights in bfloat16, its tokenizer, and data whose longest rows are four times the usual."""
    generator = random.Random(0)
    data = [
        {
            "messages": [
                {"role": "user", "content": text(generator, prompt * (4 if number % 16 == 0 else 1))},
                {"role": "assistant", "content": text(generator, real * (4 if number % 16 == 1 else 1)) + "\n#### 7"},
            ]
        }
        for number in range(rows + 16)
    ]
    for name, part in (("train", data[:rows]), ("test", data[rows:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    texts = (message["content"] for row in data for message in row["messages"])
    tokenizer = build_tokenizer(texts, StartConfig(start_vocab_size=2048), 32_768)
    torch.manual_seed(0)
    config = Qwen2Config(
        **shape, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def play(name: str, folder: Path, iterations: int, extra: list[str], answer: Any) -> None:
    """Play a recipe in this process, and say what it took."""
    options = {
        "model_name_or_path": folder / "model", "model_revision": "main", "dataset_name": folder / "train.jsonl",
        "held_out_name": folder / "test.jsonl", "column_mapping": "{}", "run_dir": folder / "run", "push_to_hub": "false",
        "disable_tqdm": "true", "on_regression": "continue", "logging_steps": 1,
    }  # fmt: skip
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    lists = ["--num_iterations", str(iterations), "--learning_rate", f"[{','.join(['1e-5'] * iterations)}]"]
    if "3b" in name:
        lists += ["--iris_alpha", "2.0"]
    code = spin_trl(["run", name, *arguments, *lists, *extra])
    peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    answer.put((code, peak))


def measure(name: str, rows: int, iterations: int, *, tiny: bool) -> Played:
    """Play a recipe at its shapes, in a process of its own."""
    shape = SHAPES[name] | ({**TINY, "vocab_size": 2048} if tiny else {})
    extra = ["--use_cpu", "--max_length", "128", "--max_new_tokens", "8"] if tiny else []
    with tempfile.TemporaryDirectory(prefix="spin-trl-recipes-") as place:
        folder = Path(place)
        build(folder, shape, rows, prompt=16 if tiny else 120, real=16 if tiny else 160)
        context = multiprocessing.get_context("spawn")
        answer = context.Queue()
        process = context.Process(target=play, args=(name, folder, iterations, extra, answer))
        process.start()
        process.join()
        if process.exitcode or answer.empty():
            raise SystemExit(f"{name} ended with exit code {process.exitcode}.")
        code, peak = answer.get()
        if code:
            raise SystemExit(f"{name} ended with exit code {code}.")
        entries = [json.loads(line) for line in (folder / "run" / "journal.jsonl").read_text().splitlines()]
        trained = [entry for entry in entries if entry["phase"] == "train"]
        generated = [entry for entry in entries if entry["phase"] == "generate"]
        figures = [entry["last"].get("loss", math.nan) for entry in trained]
        figures += [entry.get("nll", math.nan) for entry in entries if entry["phase"] == "evaluate"]
        files = (folder / "run").glob("iteration-*/model/*.safetensors")
        weights = all(bool(tensor.isfinite().all()) for file in files for tensor in load_file(file).values())
        return Played(
            peak,
            sum(entry["work_seconds"] for entry in trained) / sum(entry["steps"] for entry in trained),
            sum(entry["tokens"] for entry in generated) / sum(entry["work_seconds"] for entry in generated),
            weights and len(trained) == iterations and all(map(math.isfinite, figures)),
        )


def main() -> int:
    """Print a table; exit code 1 if a recipe takes more than it may, or has a NaN."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="small shapes on the CPU")
    options = parser.parse_args()
    console = Console()
    if not options.tiny and not torch.cuda.is_available():
        console.print("No GPU is here, so there is nothing to measure: `--tiny` shows that the benchmark runs.")
        return 0
    where = "CPU, small shapes" if options.tiny else torch.cuda.get_device_name()
    table = Table("recipe", "peak, GB", "may take", "s a step", "tokens a second", "NaN", title=f"Recipes: {where}")
    fine = True
    for name in options.recipes:
        found = measure(name, options.rows, options.iterations, tiny=options.tiny)
        fits = found.peak <= LIMITS[name]
        fine &= fits and found.is_finite
        table.add_row(
            name,
            f"{found.peak / 1e9:.1f}" if found.peak else "-",
            f"{LIMITS[name] / 1e9:.0f}" + ("" if fits else ": too much"),
            f"{found.step_seconds:.2f}",
            f"{found.tokens_per_second:,.0f}",
            "none" if found.is_finite else "YES",
        )
    console.print(table)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
