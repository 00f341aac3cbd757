"""The cost of objectives: their arithmetic, IRIS's pass without gradients, and T-SPIN's step compared with SPIN's.

Uses one small Llama and synthetic pairs with short answers; all arms take turns in one process, and medians are reported.
The peer is SPIN as DPOTrainer trains it with a reference model, without precomputed log-probabilities of the opponent.

    python benchmarks/objectives.py [--steps 8] [--rounds 3] [--hidden_size 256]
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainerCallback
from transformers.utils import logging as transformers_logging

from spin_trl import SPINConfig, SPINTrainer, StartConfig
from spin_trl.objectives.registry import OURS, published
from spin_trl.objectives.terms import ObjectiveTerms
from spin_trl.training.scratch import build_tokenizer

VOCABULARY = 2048
ARITHMETIC, LOOK_AHEAD, WITHOUT_PROTO, WITH_PROTO = 0.01, 0.40, 0.85, 1.2
"""Targets: the arithmetic and the pass without gradients as shares of a step; T-SPIN's step relative to SPIN's."""


class Clock(TrainerCallback):
    """Records the seconds of every optimiser step except the first two, which are warm-up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step > 2:
            self.seconds.append(time.perf_counter() - self.began)


def clock_of(trainer: SPINTrainer) -> Clock:
    """Return the clock among a trainer's callbacks."""
    return next(one for one in trainer.callback_handler.callbacks if isinstance(one, Clock))


def made_up(count: int) -> tuple[Dataset, Dataset, Dataset]:
    """Return synthetic prepared rows, and two responses to each: the opponent's and θ_0's."""
    rng = random.Random(0)

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(10, VOCABULARY) for _ in range(rng.randint(low, high))]

    keys = [f"row-{number}" for number in range(count)]
    rows = Dataset.from_dict(
        {
            "key": keys,
            "prompt_hash": keys,
            "prompt_ids": [ids(30, 90) for _ in keys],
            "real_ids": [ids(40, 120) for _ in keys],
            "prompt": keys,
            "real": keys,
        }
    )
    return rows, *(Dataset.from_dict({"key": keys, "ids": [ids(40, 120) for _ in keys]}) for _ in range(2))


class Bench:
    """One model and its data, from which all arms build their trainers."""

    def __init__(self, folder: Path, hidden_size: int, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.tokenizer = build_tokenizer(iter(["a b c"]), StartConfig(start_vocab_size=VOCABULARY), 512)
        self.rows, self.generated, self.proto = made_up(256)
        torch.manual_seed(0)
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=hidden_size,
                intermediate_size=hidden_size * 3,
                num_hidden_layers=6,
                num_attention_heads=4,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        )

    def train(self, loss_type: str, *, reference: bool = False, proto: bool = False, **settings: Any) -> SPINTrainer:
        """Return a trainer for a few steps with an objective; its [`Clock`] will record their seconds."""
        args = SPINConfig(
            output_dir=str(self.folder / f"{loss_type}-{time.perf_counter_ns()}"),
            loss_type=[loss_type],
            use_cpu=not torch.cuda.is_available(),
            bf16=torch.cuda.is_available(),
            activation_checkpointing=False,
            max_length=512,
            max_steps=self.steps + 2,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            dataloader_pin_memory=False,
            **{"per_device_train_batch_size": 8, **settings},
        )
        trainer = SPINTrainer(
            copy.deepcopy(self.model),
            copy.deepcopy(self.model) if reference else None,
            args=args,
            train_dataset=self.rows,
            processing_class=self.tokenizer,
            generations=self.generated,
            proto=self.proto if proto else None,
            callbacks=[Clock()],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def step(self, loss_type: str, **options: Any) -> float:
        """Return the median seconds of a step."""
        trainer = self.train(loss_type, **options)
        trainer.train()
        return statistics.median(clock_of(trainer).seconds)


def arithmetic(loss_type: str, batch_size: int) -> float:
    """Return the median seconds of an objective's arithmetic, including the gradient, on a batch of log-probabilities."""
    terms = ObjectiveTerms([loss_type], [1.0], published([loss_type]))
    names = ("policy_real", "policy_generated", "opponent_real", "opponent_generated", "policy_proto")
    seconds = []
    for _ in range(200):
        tensors: dict[str, Any] = {f"{name}_logps": torch.randn(batch_size).requires_grad_() for name in names}
        tensors |= {name: torch.full((batch_size,), 80) for name in ("real_lengths", "generated_lengths")}
        started = time.perf_counter()
        loss, _ = terms(tensors, None)
        torch.as_tensor(loss).backward()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def look_ahead(bench: Bench, accumulation: int) -> tuple[float, float]:
    """Return the seconds of an IRIS optimiser step with gradient accumulation, and of its pass without gradients."""
    trainer = bench.train("iris", per_device_train_batch_size=8, gradient_accumulation_steps=accumulation)
    spent: list[float] = []
    collect = trainer._logratios

    def timed(batch: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = collect(batch, **options)
        spent.append(time.perf_counter() - started)
        return result

    trainer._logratios = timed  # type: ignore[method-assign]
    trainer.train()
    step = statistics.median(clock_of(trainer).seconds)
    ahead = statistics.median(spent[2 * accumulation :]) * accumulation
    # Trainer collects the micro-batches, which includes the pass without gradients, before the step begins.
    return step + ahead, ahead


def main() -> int:
    """Measure all arms in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden_size", type=int, default=256)
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    console = Console()
    arms: dict[str, dict[str, Any]] = {
        "sigmoid, with a reference": {"loss_type": "sigmoid", "reference": True},
        "sigmoid": {"loss_type": "sigmoid"},
        "tspin, iteration 0": {"loss_type": "tspin"},
        "tspin, with proto": {"loss_type": "tspin", "proto": True},
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    ahead: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.hidden_size, options.steps)
        for _ in range(options.rounds):
            for name, settings in arms.items():
                seconds[name].append(bench.step(**settings))
            whole, passed = look_ahead(bench, 4)
            ahead.append(passed / whole)
    parameters = sum(parameter.numel() for parameter in bench.model.parameters()) / 1e6
    peer = statistics.median(seconds["sigmoid, with a reference"])
    table = Table(title=f"A step of 8 pairs, {parameters:.1f} M parameters, {torch.get_num_threads()} thread(s)")
    for heading in ("arm", "ms", "relative to SPIN with a reference", "target"):
        table.add_column(heading, justify="right")
    targets = {"tspin, iteration 0": WITHOUT_PROTO, "tspin, with proto": WITH_PROTO}
    for name in arms:
        ratios = [one / other for one, other in zip(seconds[name], seconds["sigmoid, with a reference"], strict=True)]
        target = f"at most {targets[name]:g}" if name in targets else ""
        table.add_row(
            name, f"{1000 * statistics.median(seconds[name]):.1f}", f"{statistics.median(ratios):.2f}", target
        )
    console.print(table)
    console.print(
        f"IRIS's pass without gradients: {100 * statistics.median(ahead):.1f} % of a step of 4 x 8 pairs (target: at most "
        f"{100 * LOOK_AHEAD:g} %); a step with a single micro-batch has none."
    )
    step = min(peer, statistics.median(seconds["sigmoid"]), statistics.median(seconds["tspin, iteration 0"]))
    table = Table(
        title=f"Arithmetic of 8 pairs, including the gradient (target: under {100 * ARITHMETIC:g} % of a step)"
    )
    for heading in ("objective", "ms", "% of the shortest step"):
        table.add_column(heading, justify="right")
    for name in sorted(OURS):
        own = arithmetic(name, 8)
        table.add_row(name, f"{1000 * own:.3f}", f"{100 * own / step:.2f}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
