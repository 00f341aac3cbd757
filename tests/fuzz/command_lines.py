"""Command lines: options of every command with invalid values, on valid runs and recipes."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

from . import values
from .materials import Materials
from .parts import Input, settings_of, write_recipe

OPTIONS: dict[str, tuple[str, ...]] = {
    "plan": (
        "--gpu", "--num_gpus", "--rows", "--prompt_tokens", "--response_tokens", "--training_tokens_per_second",
        "--generation_tokens_per_second",
    ),
    "generate": ("--iteration",),
    "train": ("--iteration",),
    "evaluate": ("--iteration",),
    "baseline": ("--iteration",),
    "compare": ("--arms", "--seeds", "--devices", "--arm_settings"),
    "eval": ("--tasks", "--iteration", "--stage", "--num_fewshot", "--limit", "--batch_size", "--include_path"),
    "pairs": ("--scorer", "--rubric", "--score", "--stage", "--num_generations", "--max_prompts", "--seed", "--output"),
    "push": ("--hub_model_id", "--hub_private_repo", "--push_generations", "--hub_dataset_id", "--hub_license"),
    "card": ("--unknown",),
    "report": ("--unknown",),
    "review": ("--iteration", "--port", "votes.json"),
    "recipes": ("--unknown",),
    "fetch": ("--unknown",),
    "settings": ("--json", "--unknown"),
    "schema": ("--unknown",),
    "unknown": ("--unknown",),
}  # fmt: skip
"""Options by command."""

VALUES = (
    *values.TEXTS, "h100", "cpu", "1e9", "-5", "1.5", "9" * 5_000, "nan", "inf", "list", "spin", "best", "start",
    "iteration-0", "iteration-99",
    "baseline/sft/iteration-0", "0.1", "auto", "sigmoid", "space+0.1*sft", "+", "0*sft", "nan*sft", "sft+sft",
    "a" * 5_000, '{"sigmoid": 3}',
    '{"sigmoid": {"seed": []}}', "[" * 3_000, "10000000000000000000000", "me/model", "a/b/c", "true", "mit",
)  # fmt: skip

ON_RECIPES = ("plan", "compare")
ON_RUNS = ("plan", "generate", "train", "evaluate", "baseline", "eval", "pairs", "push", "card", "report", "review")


def make(rng: Random, folder: Path, materials: Materials) -> Input:
    """Generate a command with one to three of its options."""
    command = rng.choice(list(OPTIONS))
    arguments = [command]
    if command in ON_RUNS and (command not in ON_RECIPES or rng.random() < 0.3):
        shutil.copytree(rng.choice(materials.played), folder, symlinks=True, dirs_exist_ok=True)
        arguments.append("run")
        if command == "review":
            arguments.append("--show")  # otherwise it serves the page until it is interrupted
    elif rng.random() < 0.95:
        arguments.append(write_recipe(folder, settings_of(materials)))
    for option in rng.sample(OPTIONS[command], rng.randint(0, min(3, len(OPTIONS[command])))):
        arguments += [option, *rng.choices(VALUES, k=rng.choice([1, 1, 1, 0, 2]))]
    if rng.random() < 0.1:
        rng.shuffle(arguments)
    return Input(arguments, repr(" ".join(arguments)[:200]))
