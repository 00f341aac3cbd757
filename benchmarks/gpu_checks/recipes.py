"""The recipes for one GPU at their real shapes: a few steps of each with its own YAML; peak memory, step time, and no NaN.

Model and data are created on the spot in the recipe's own shapes: random weights, synthetic text, rows as long as published
ones, and one in sixteen prompts and responses four times as long. Nothing is downloaded or pushed. Rows, iterations and the
length of answers are reduced, because random weights never end an answer.
"""

from __future__ import annotations

import gc
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

import training
from spin_trl import StartConfig
from spin_trl.cli import main as spin_trl
from spin_trl.training.scratch import build_tokenizer

from .check import Session

WORDS = ("boat", "lamp", "seven", "paints", "because", "half", "and", "then", "buys", "how", "many", "of", "them")


@dataclass(frozen=True)
class Recipe:
    """A recipe and how it is played here.

    Attributes:
        name: name of the recipe.
        size: size of its model, a key of `training.SIZES`.
        rows: number of training rows.
        held_out: number of held-out rows.
        iterations: number of iterations to play.
        limit: maximum GB on the GPU it is meant for.
        settings: settings that override the recipe's.
    """

    name: str
    size: str
    rows: int
    held_out: int
    iterations: int
    limit: float
    settings: tuple[str, ...] = ()

    def arguments(self, folder: Path, *, tiny: bool, on_gpu: bool = True) -> list[str]:
        """Return the overrides of the recipe's settings for a run in a folder."""
        files = {
            "model_name_or_path": folder / "model", "model_revision": "main", "dataset_name": folder / "train.jsonl",
            "held_out_name": folder / "test.jsonl", "column_mapping": "{}", "max_rows": self.rows, "push_to_hub": "false",
            "disable_tqdm": "true", "on_regression": "continue", "logging_steps": 1, "num_iterations": self.iterations,
            "learning_rate": f"[{','.join(['1e-5'] * self.iterations)}]",
        }  # fmt: skip
        more = ["--max_length", "128", "--max_new_tokens", "8"] if tiny else []
        more += [] if on_gpu else ["--use_cpu"]
        return [*(part for key, value in files.items() for part in (f"--{key}", str(value))), *self.settings, *more]


T4 = Recipe("qwen2.5-0.5b-t4", "qwen2.5-0.5b", 64, 16, 3, 15.0, ("--max_new_tokens", "96"))
LORA_3B = Recipe(
    "qwen2.5-3b/lora", "qwen2.5-3b", 128, 8, 1, 23.0,
    ("--max_new_tokens", "128", "--num_train_epochs", "1", "--iris_alpha", "2.0"),
)  # fmt: skip
PROMPT, REAL = 120, 160
"""Approximate tokens of most prompts and real responses: GSM8K's, with a chat template."""


def run_t4(session: Session) -> None:
    """Play the recipe for a T4, in 4 bits and float16."""
    run(session, T4)


def run_lora_3b(session: Session) -> None:
    """Play the recipe for 3B parameters on one 24 GB GPU."""
    run(session, LORA_3B)


def run(session: Session, recipe: Recipe) -> None:
    """Play a recipe, and report its memory and time."""
    folder = session.folder
    if session.tiny:  # the same number of steps, with fewer pairs
        smaller = ("--gradient_accumulation_steps", "1", "--per_device_train_batch_size", "8")
        recipe = Recipe(recipe.name, recipe.size, 12, 4, recipe.iterations, recipe.limit, (*recipe.settings, *smaller))
    build_data(folder, recipe, tiny=session.tiny)
    build_model(folder, recipe, tiny=session.tiny, on_gpu=session.on_gpu)
    if session.on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    arguments = recipe.arguments(folder, tiny=session.tiny, on_gpu=session.on_gpu)
    code = spin_trl(["run", recipe.name, *arguments, "--run_dir", str(folder / "run")])
    if code:
        raise RuntimeError(f"spin-trl run {recipe.name} ended with exit code {code}.")
    if session.on_gpu:
        limit = None if session.tiny else recipe.limit
        session.figure("peak", torch.cuda.max_memory_allocated() / 1e9, "GB", at_most=limit)
        session.figure("peak, with what the allocator keeps", torch.cuda.max_memory_reserved() / 1e9, "GB")
    entries = [
        json.loads(line) for line in (folder / "run" / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    report(session, entries, recipe.iterations)
    session.figure("numbers that are NaN or infinite", broken(folder / "run", entries), at_most=0)


def report(session: Session, entries: Sequence[dict[str, Any]], iterations: int) -> None:
    """Report the times recorded in the journal."""
    trained, generated, evaluated = (
        [entry for entry in entries if entry["phase"] == phase] for phase in ("train", "generate", "evaluate")
    )
    session.figure("iterations", len(trained), at_least=iterations)
    steps = sum(entry["steps"] for entry in trained)
    session.figure("steps", steps)
    session.figure("a step", sum(entry["work_seconds"] for entry in trained) / steps, "s")
    last = trained[-1]
    session.figure("a step of the last iteration", last["work_seconds"] / last["steps"], "s")
    tokens, seconds = (sum(entry[name] for entry in generated) for name in ("tokens", "work_seconds"))
    session.figure("generation", tokens / seconds, "tokens/s")
    session.figure("generating", seconds / len(generated), "s an iteration")
    if evaluated:
        session.figure("evaluating", sum(entry["work_seconds"] for entry in evaluated) / len(evaluated), "s a stage")


def broken(run_dir: Path, entries: Sequence[dict[str, Any]]) -> int:
    """Return the number of losses, held-out figures and saved weights that are NaN or infinite."""
    figures = [entry["last"].get("loss", math.nan) for entry in entries if entry["phase"] == "train"]
    figures += [entry.get("nll", math.nan) for entry in entries if entry["phase"] == "evaluate"]
    weights = 0
    for file in run_dir.glob("iteration-*/model/*.safetensors"):
        weights += sum(int((~tensor.isfinite()).sum()) for tensor in load_file(file).values())
    return weights + sum(not math.isfinite(figure) for figure in figures)


def text(generator: random.Random, tokens: int) -> str:
    """Return random words that make up about this many tokens."""
    return " ".join(generator.choices(WORDS, k=max(tokens * 3 // 4, 1)))


def build_data(folder: Path, recipe: Recipe, *, tiny: bool) -> None:
    """Write training and held-out rows, the tokenizer, and the model's configuration."""
    generator = random.Random(0)
    prompt, real = (16, 16) if tiny else (PROMPT, REAL)
    rows = [
        {
            "messages": [
                {"role": "user", "content": text(generator, prompt * (4 if number % 16 == 0 else 1))},
                {"role": "assistant", "content": text(generator, real * (4 if number % 16 == 1 else 1)) + "\n#### 7"},
            ]
        }
        for number in range(recipe.rows + recipe.held_out)
    ]
    for name, part in (("train", rows[: recipe.rows]), ("test", rows[recipe.rows :])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    texts = (message["content"] for row in rows for message in row["messages"])
    tokenizer = build_tokenizer(texts, StartConfig(start_vocab_size=2048), 32_768)
    tokenizer.save_pretrained(folder / "model")
    shape = {**training.SIZES[recipe.size], "num_key_value_heads": 2}
    if tiny:
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
        shape |= {**small, "intermediate_size": 64, "vocab_size": 2048}
    config = Qwen2Config(
        **shape,
        max_position_embeddings=32_768,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )
    config.save_pretrained(folder / "model")


def build_model(folder: Path, recipe: Recipe, *, tiny: bool, on_gpu: bool) -> None:
    """Write random bfloat16 weights for the configuration in the folder."""
    torch.manual_seed(0)
    with torch.device("cuda" if on_gpu else "cpu"):
        model: Any = Qwen2ForCausalLM(Qwen2Config.from_pretrained(folder / "model"))
    model.to(torch.bfloat16)
    model.save_pretrained(folder / "model")
