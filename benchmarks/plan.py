"""Peak memory of training and generation: predicted by `spin-trl plan`, and measured.

Every case is a small Qwen2 with random weights, trained on a CPU for two steps by SPINTrainer on pairs of random tokens, and
generating with the transformers engine. PyTorch's profiler tracks all allocations. The plan only knows the model's
configuration and the lengths of the pairs. `benchmarks/gpu.py` does the same at real shapes on a GPU.

    python benchmarks/plan.py [--cases full lora ...]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from peft import get_peft_model
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel, PrinterCallback, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging
from trl import get_peft_config, get_quantization_config

from spin_trl import SPINTrainer, StartConfig
from spin_trl.cli.session import quieten
from spin_trl.config.recipe import Recipe
from spin_trl.generation.engine import Sampling
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.models.policy import load_policy
from spin_trl.plan.memory import MemoryPlan
from spin_trl.plan.setup import Setup, Sharding
from spin_trl.plan.tokens import Lengths
from spin_trl.run.recipe import read_recipe
from spin_trl.training.scratch import build_tokenizer

TARGET = 0.3
"""Maximum relative deviation of a plan from the measurement."""

SMALL: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

LORA = {"use_peft": True, "lora_r": 16, "lora_target_modules": ["all-linear"]}


@dataclass(frozen=True)
class Case:
    """A model, its training settings, and the lengths of its pairs.

    Attributes:
        model: fields of its configuration that differ from `SMALL`.
        settings: settings of the recipe.
        prompt, real, generated: lengths in tokens.
        batch: pairs per micro-batch.
    """

    model: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    prompt: int = 60
    real: int = 100
    generated: int = 80
    batch: int = 4


CASES = {
    "full": Case(),
    "full, checkpointing": Case(settings={"activation_checkpointing": True}),
    "full, accumulating": Case(settings={"gradient_accumulation_steps": 2, "activation_checkpointing": True}, batch=2),
    "full, rmsprop": Case(settings={"optim": "rmsprop"}),
    "full, bf16": Case(settings={"bf16": True}),
    "full, bf16, checkpointing": Case(settings={"bf16": True, "activation_checkpointing": True}),
    "full, long": Case(prompt=300, real=400, generated=350, batch=2),
    "full, long, checkpointing": Case(
        prompt=300, real=400, generated=350, batch=2, settings={"activation_checkpointing": True}
    ),
    "full, large vocabulary": Case(model={"vocab_size": 32768, "tie_word_embeddings": True}),
    "full, prompts not shared": Case(settings={"shared_prefix": False}),
    "lora": Case(settings=LORA),
    "lora, checkpointing": Case(settings={**LORA, "activation_checkpointing": True}),
    "lora, 4-bit": Case(settings={**LORA, "load_in_4bit": True}),
    "lora, 4-bit, checkpointing": Case(settings={**LORA, "load_in_4bit": True, "activation_checkpointing": True}),
    "lora, 4-bit, bf16": Case(settings={**LORA, "load_in_4bit": True, "bf16": True, "dtype": "bfloat16"}),
    "dora, 4-bit": Case(settings={**LORA, "use_dora": True, "load_in_4bit": True}),
}
"""Small models for a CPU."""


@dataclass(frozen=True)
class Result:
    """Bytes at the peak, measured and planned."""

    measured: int
    planned: int

    @property
    def ratio(self) -> float:
        return self.planned / self.measured


class Bench:
    """One case, as a recipe, a model in a folder, and pairs.

    Args:
        case: case to measure.
        folder: folder for the model and all other files.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.settings = {
            "bf16": False,
            "activation_checkpointing": False,
            "optim": "adamw_torch",
            **case.settings,
            "use_cpu": True,
            "model_name_or_path": str(folder / "model"),
            "output_dir": str(folder / "out"),
            "dataset_name": "made up",
            "per_device_train_batch_size": case.batch,
            "precompute_ref_batch_size": case.batch,
            "max_length": case.prompt + max(case.real, case.generated),
            "max_new_tokens": case.generated,
            "generation_batch_size": 2 * case.batch,
            "max_steps": 2,
            "learning_rate": 1e-5,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "num_iterations": 1,
        }
        torch.manual_seed(0)
        text = self.tokenizer = build_tokenizer(iter(["a b c"]), StartConfig(), 4096)
        config = Qwen2Config(
            **{**SMALL, **case.model},
            max_position_embeddings=4096,
            pad_token_id=text.pad_token_id,
            eos_token_id=text.eos_token_id,
        )
        model = Qwen2ForCausalLM(config)
        self.vocabulary = config.vocab_size
        model.save_pretrained(folder / "model")
        text.save_pretrained(folder / "model")

    def recipe(self) -> Recipe:
        """Return the case's settings, read like a user's recipe."""
        import yaml

        path = self.folder / "case.yaml"
        path.write_text(yaml.safe_dump(self.settings), encoding="utf-8")
        recipe = read_recipe(str(path))
        recipe.load_as_set()
        return recipe

    def plan(self) -> MemoryPlan:
        """Return the plan, made from the configuration and the lengths alone."""
        recipe, case = self.recipe(), self.case
        setup = Setup(recipe, Sharding(), on_gpu=False)
        # Real and generated responses differ in length; the plan is told both.
        lengths = _AsMade([(case.prompt, case.real)], self.pairs, 0, Sampling.from_args(recipe.args), "made up")
        return MemoryPlan(setup, lengths)

    @property
    def pairs(self) -> int:
        return 2 * self.case.batch * int(self.settings.get("gradient_accumulation_steps", 1))

    def ids(self, count: int) -> list[list[int]]:
        """Return random tokens, one row per pair."""
        rng = random.Random(count)
        return [[rng.randrange(10, self.vocabulary) for _ in range(count)] for _ in range(self.pairs)]

    def training(self) -> Result:
        """Measure two optimiser steps of a trainer that is already built."""
        case, recipe = self.case, self.recipe()
        keys = [f"row-{number}" for number in range(self.pairs)]
        rows = {"prompt_ids": self.ids(case.prompt), "real_ids": self.ids(case.real)}
        texts = dict.fromkeys(("key", "prompt_hash", "prompt", "real"), keys)
        trainer = SPINTrainer(
            model=str(self.folder / "model"),
            args=recipe.args,
            train_dataset=Dataset.from_dict({**texts, **rows}),
            processing_class=self.tokenizer,
            quantization_config=get_quantization_config(recipe.model),
            peft_config=get_peft_config(recipe.model),
            generations=Dataset.from_dict({"key": keys, "ids": self.ids(case.generated)}),
        )
        trainer.remove_callback(PrinterCallback)
        measured = held(trainer.model) + self.peak(trainer.train)
        (planned,) = [phase for phase in self.plan().phases() if phase.name == "train"]
        return Result(measured, planned.total - planned.parts.get("reserve", 0))

    def answering(self) -> Result:
        """Measure the generation of a micro-batch in which every response reaches the maximum length."""
        recipe = self.recipe()
        model = load_policy(self.folder / "model", recipe.args, get_quantization_config(recipe.model)).eval()
        peft = get_peft_config(recipe.model)
        if peft is not None:  # as after the first iteration
            model = get_peft_model(model, peft).eval()
        half = torch.bfloat16 if recipe.args.bf16 else torch.float16 if recipe.args.fp16 else None
        context = functools.partial(torch.autocast, model.device.type, half) if half else contextlib.nullcontext
        engine = TransformersEngine(model, [self.tokenizer.eos_token_id], self.tokenizer.pad_token_id, context)
        prompts = self.ids(self.case.prompt)[: recipe.args.answers_at_once]
        sampling = Sampling.from_args(recipe.args)
        measured = held(model) + self.peak(lambda: engine.answer(prompts, sampling, 0))
        (planned,) = [phase for phase in self.plan().phases() if phase.name == "generate"]
        return Result(measured, planned.total - planned.parts.get("reserve", 0))

    def peak(self, run: Callable[[], Any]) -> int:
        """Return the peak bytes of tensors in addition to existing ones."""
        gc.collect()  # otherwise, freeing tensors of an earlier case would be counted
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run()
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        live = most = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            live += event.nbytes()
            most = max(most, live)
        return most


class _AsMade(Lengths):
    """Lengths with known generated responses."""

    def pair(self, row: tuple[int, int], branches: int = 2, *, longest: bool = False) -> Any:
        return super().pair(row, branches, longest=True)


def held(model: torch.nn.Module | PreTrainedModel) -> int:
    """Return the bytes of a model's tensors, including the scales of quantised weights."""
    storages = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        state = getattr(tensor, "quant_state", None)
        for part in vars(state).values() if state is not None else ():
            if isinstance(part, torch.Tensor):
                storages[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
    return sum(storages.values())


def measure(case: Case) -> tuple[Result, Result]:
    """Measure training and generation of a case."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(case, Path(folder))
        return bench.training(), bench.answering()


def main() -> int:
    """Measure the cases and print planned over measured. Return 1 if one is off by more than the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    options = parser.parse_args()
    quieten()
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    console = Console(width=140)
    table = Table(title="Peak memory, planned and measured (CPU)")
    for heading in (
        "case",
        "training: measured, MB",
        "planned, MB",
        "ratio",
        "generation: measured, MB",
        "planned, MB",
        "ratio",
    ):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    worst = 0.0
    for name in options.cases:
        cells = []
        for result in measure(CASES[name]):
            worst = max(worst, abs(result.ratio - 1))
            cells += [f"{result.measured / 1e6:,.1f}", f"{result.planned / 1e6:,.1f}", f"{result.ratio:.2f}"]
        table.add_row(name, *cells)
    console.print(table)
    console.print(f"Target: within {TARGET:.0%}. The worst is off by {worst:.0%}.")
    return int(worst > TARGET)


if __name__ == "__main__":
    sys.exit(main())
