"""Training over unique tokens, compared with DPOTrainer: step time, time of two epochs, memory, and the floor.

The arms take turns in one run, on the same pairs, model, optimiser, batch, precision and checkpointing:

- D: DPOTrainer with its defaults: a reference model that runs at every step.
- P: DPOTrainer at its best: precomputed log-probabilities of the reference, and TRL's LM head made to score only labelled
  positions, as it does by default on a GPU.
- ours: SPINTrainer.
- floor: forward and backward pass of the bare model over as many tokens as the batch has unique ones, in unpadded rows,
  TRL's head on the same number of labels, and one optimiser step; once with TRL's tile width in the head, once with ours.

A step is measured from the end of one to the end of the next, so it includes building the batch. Two epochs are the
opponent's pass, if any, and two steps on the same pairs. Memory is the peak above the loaded model, with each arm in a
separate process. On a GPU, the models have Qwen2.5's shapes with random weights in bfloat16, and D and P run with every
available attention implementation.

    python benchmarks/training.py [--size small large] [--tuning full lora] [--data ultrachat long gsm8k] [--rounds 3]
        [--steps 3] [--batch_size 8] [--no-gradient_checkpointing] [--dataset_name GSM8K/train.jsonl]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from datasets import Dataset, disable_progress_bars, load_dataset
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PrinterCallback, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from transformers.utils import is_flash_attn_2_available
from transformers.utils import logging as transformers_logging
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import add_fused_lm_head

from spin_trl import SPINConfig, SPINTrainer, StartConfig
from spin_trl.models.forward import head
from spin_trl.models.forward.batch import LAYOUT
from spin_trl.training.scratch import build_tokenizer

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "small": {"vocab_size": 8192, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
    "large": {"vocab_size": 32768, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8},
    "qwen2.5-0.5b": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "tie_word_embeddings": True,
    },
    "qwen2.5-3b": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
}
"""Qwen2 models by name: one to test that a benchmark runs, two for CPUs, two for GPUs."""

LENGTHS = {"ultrachat": ((20, 300), (30, 400)), "long": ((300, 800), (30, 250)), "gsm8k-like": ((35, 110), (40, 220))}
"""Minimum and maximum tokens of synthetic prompts and responses."""

TARGETS = {"ultrachat": (3.0, 1.3, 0.65), "long": (3.5, 1.6, 0.6), "gsm8k": (2.5, 1.3, 0.7)}
"""Minimum speed-up of two epochs over D and over P; maximum memory relative to D."""

FLOOR = 1.2
"""Maximum time of our step, relative to the floor's."""

ON_GPU = torch.cuda.is_available()
OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")  # requested from the head by DPOTrainer


Pairs = Sequence[tuple[list[int], list[int], list[int]]]
"""Prompts, real and generated responses, as token ids."""


class Clock(TrainerCallback):
    """Records the seconds from the end of a step to the end of the next, and the losses."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if ON_GPU:
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self.losses.append(logs["loss"])

    @property
    def step(self) -> float:
        """Median seconds of a step, without the first, which is a warm-up."""
        return statistics.median(end - start for start, end in zip(self.ends, self.ends[1:], strict=False))


class Peer(DPOTrainer):
    """DPOTrainer on pairs that are already tokenised, which times the reference's pass."""

    pass_seconds = 0.0

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = super()._precompute_ref_logps(*args, **kwargs)
        self.pass_seconds += time.perf_counter() - started
        return result


def clock_of(trainer: DPOTrainer) -> Clock:
    """Return the clock among a trainer's callbacks."""
    return next(one for one in trainer.callback_handler.callbacks if isinstance(one, Clock))


@dataclass
class Times:
    """The times of an arm in one round.

    Attributes:
        step: median seconds of a step.
        opponent: seconds of the opponent's pass for one step's pairs.
        losses: losses of every step.
    """

    step: float
    opponent: float = 0.0
    losses: list[float] = field(default_factory=list)

    @property
    def two_epochs(self) -> float:
        """Seconds of two epochs on one step's pairs."""
        return self.opponent + 2 * self.step


@dataclass
class Bench:
    """One model and its pairs, from which all arms build their trainers.

    Attributes:
        folder: folder that contains the model as `model`; trainers write next to it.
        lora: whether an adapter is trained instead of the whole model.
        pairs: prompts, real and generated responses, as token ids.
        options: command-line options.
        callbacks: callbacks of every trainer, in addition to its clock.
    """

    folder: Path
    lora: bool
    pairs: Pairs
    options: argparse.Namespace
    callbacks: Sequence[TrainerCallback] = ()

    def settings(self, config: type[DPOConfig], **more: Any) -> Any:
        return config(
            output_dir=str(self.folder / str(time.perf_counter_ns())),
            use_cpu=not ON_GPU,
            bf16=ON_GPU,
            gradient_checkpointing=self.options.gradient_checkpointing,
            per_device_train_batch_size=self.options.batch_size,
            max_length=None,
            max_steps=self.options.steps + 1,
            learning_rate=1e-5,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            dataloader_pin_memory=ON_GPU,
            model_init_kwargs={"dtype": "bfloat16" if ON_GPU else "float32", **more.pop("model_init_kwargs", {})},
            **more,
        )

    def peer(self, *, best: bool, attention: str) -> Peer:
        """Train with DPOTrainer; the caller sets up P's head."""
        args = self.settings(
            DPOConfig, precompute_ref_log_probs=best, model_init_kwargs={"attn_implementation": attention}
        )
        return self.trained(args, *rows_for(False, self.pairs))

    def ours(self) -> SPINTrainer:
        return self.trained(self.settings(SPINConfig, shared_prefix=True), *rows_for(True, self.pairs))

    def trained(self, args: Any, kind: type, dataset: Dataset, more: Mapping[str, Any]) -> Any:
        trainer = kind(
            model=str(self.folder / "model"),
            args=args,
            train_dataset=dataset,
            processing_class=tokenizer(),
            peft_config=LoraConfig(r=16, target_modules="all-linear") if self.lora else None,
            callbacks=[Clock(), *self.callbacks],
            **more,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return trainer

    def run(self, arm: str) -> Times:
        """Run one round of an arm."""
        name, _, attention = arm.partition(" ")
        steps = self.options.steps + 1
        if name == "ours":
            trainer = self.ours()
            clock = clock_of(trainer)
            return Times(clock.step, trainer.opponent_seconds / steps, clock.losses)
        if name == "floor":
            return Times(self.floor(head.CPU_TILE if attention else None))
        with labelled_head() if name == "P" else contextlib.nullcontext():
            peer = self.peer(best=name == "P", attention=attention or "sdpa")
        clock = clock_of(peer)
        return Times(clock.step, peer.pass_seconds / steps, clock.losses)

    def floor(self, tile: int | None) -> float:
        """Return the median seconds of the minimum work of a step."""
        with mock.patch.object(SPINTrainer, "train"):
            trainer = self.ours()
        model: Any = AutoModelForCausalLM.from_pretrained(
            self.folder / "model", dtype=torch.bfloat16 if ON_GPU else torch.float32
        )
        model.to(trainer.args.device)
        add_fused_lm_head(model, outputs=OUTPUTS)
        if self.lora:
            model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
            model.enable_input_require_grads()
        if self.options.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
        inner = model.get_base_model() if self.lora else model
        seconds = []
        wide = mock.patch.object(head, "CPU_TILE", tile or 10**9)
        for batch in list(trainer.get_train_dataloader())[: self.options.steps + 1]:
            layout = batch[LAYOUT]
            pairs = layout.shared.numel()
            length = layout.source.numel() // pairs
            rows = layout.gather(batch["input_ids"])[: pairs * length].view(pairs, length)
            scored = torch.linspace(0, rows.numel() - 1, layout.scored.numel(), device=rows.device).long()
            started = time.perf_counter()
            with wide, head.labelled_positions(inner.base_model, scored):
                model(input_ids=rows, shift_labels=layout.targets, use_cache=False, fused_lm_head=True).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if ON_GPU:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[1:])


def rows_for(ours: bool, pairs: Pairs) -> tuple[type, Dataset, dict[str, Any]]:
    """Return a trainer's class, its dataset and further arguments, for the same pairs with SPINTrainer or DPOTrainer.

    Args:
        ours: whether to use SPINTrainer; else DPOTrainer, which gets the tokens directly.
        pairs: prompts, real and generated responses.
    """
    keys = [f"row-{number}" for number in range(len(pairs))]
    prompts, real, generated = map(list, zip(*pairs, strict=True))
    if ours:
        texts = dict.fromkeys(("key", "prompt_hash", "prompt", "real"), keys)
        rows = Dataset.from_dict({**texts, "prompt_ids": prompts, "real_ids": real})
        return SPINTrainer, rows, {"generations": Dataset.from_dict({"key": keys, "ids": generated})}
    texts = dict.fromkeys(("prompt", "chosen", "rejected"), keys)
    return Peer, Dataset.from_dict({**texts, "prompt_ids": prompts, "chosen_ids": real, "rejected_ids": generated}), {}


@contextlib.contextmanager
def labelled_head() -> Iterator[None]:
    """Make TRL's head score only labelled positions, as with Triton; the arithmetic remains that of the CPU."""
    with mock.patch("trl.trainer.utils._use_triton", return_value=True):
        yield


def tokenizer() -> Any:
    """Return an arbitrary tokenizer: the pairs are already tokenised."""
    return build_tokenizer(iter(["a b c"]), StartConfig(), 4096)


def made_up(data: str, count: int, vocabulary: int, seed: int = 0) -> list[tuple[list[int], list[int], list[int]]]:
    """Return pairs of random tokens with uniformly distributed lengths."""
    rng = random.Random(seed)

    def ids(span: tuple[int, int]) -> list[int]:
        return [rng.randrange(10, vocabulary) for _ in range(rng.randint(*span))]

    prompts, responses = LENGTHS[data]
    return [(ids(prompts), ids(responses), ids(responses)) for _ in range(count)]


def gsm8k(path: str, count: int, vocabulary: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Return GSM8K's problems with their answers; another problem's answer serves as the generated response."""
    rows = load_dataset("json", data_files=path, split="train")
    texts = build_tokenizer(iter([*rows["question"], *rows["answer"]]), StartConfig(start_vocab_size=vocabulary), 4096)
    rows = rows.shuffle(seed=0).select(range(count + 1))
    prompts, answers = texts(list(rows["question"]))["input_ids"], texts(list(rows["answer"]))["input_ids"]
    return list(zip(prompts[:count], answers[:count], answers[1:], strict=True))


def pairs_of(data: str, options: argparse.Namespace, vocabulary: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Return the pairs of one round."""
    count = options.batch_size * (options.steps + 1)
    return gsm8k(options.dataset_name, count, vocabulary) if data == "gsm8k" else made_up(data, count, vocabulary)


def save_config(shape: Mapping[str, Any], folder: Path) -> Qwen2Config:
    """Write a Qwen2 configuration to `folder/model`; values missing in `shape` are Qwen2.5's or derived from it."""
    settings = {"num_key_value_heads": 2, "intermediate_size": 4 * shape["hidden_size"], **shape}
    config = Qwen2Config(max_position_embeddings=4096, pad_token_id=0, **settings)
    config.save_pretrained(folder / "model")
    return config


def save_model(shape: Mapping[str, Any], folder: Path, dtype: torch.dtype | None = None) -> float:
    """Write a model with random weights to `folder/model`, and return its number of parameters in millions.

    Args:
        shape: settings of a Qwen2, from `SIZES` or the caller's own.
        folder: folder that will contain `model`.
        dtype: dtype of the weights; None for bfloat16 on a GPU and float32 otherwise.
    """
    torch.manual_seed(0)
    with torch.device("cuda" if ON_GPU else "cpu"):
        model: Any = Qwen2ForCausalLM(save_config(shape, folder))
    model.to(dtype or (torch.bfloat16 if ON_GPU else torch.float32)).save_pretrained(folder / "model")
    return float(sum(parameter.numel() for parameter in model.parameters())) / 1e6


def peak_of(arm: str, size: str, tuning: str, data: str, options: argparse.Namespace) -> float:
    """Return an arm's peak in MiB above the loaded model, measured in a separate process."""
    asked = ["--arm", arm, "--size", size, "--tuning", tuning, "--data", data, "--steps", "2"]
    asked += ["--batch_size", str(options.batch_size)]
    asked += ["--gradient_checkpointing" if options.gradient_checkpointing else "--no-gradient_checkpointing"]
    asked += ["--dataset_name", options.dataset_name] if options.dataset_name else []
    done = subprocess.run(
        [sys.executable, __file__, *asked], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def own_peak(arm: str, bench: Bench) -> float:
    """Return an arm's peak in MiB above the loaded model, measured in this process."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(bench.folder / "model")
    if ON_GPU:
        loaded.to("cuda")
        allocated = torch.cuda.memory_allocated()
        del loaded
        torch.cuda.reset_peak_memory_stats()
        bench.run(arm)
        return (torch.cuda.max_memory_allocated() - allocated) / 2**20
    before = resident("VmRSS")
    del loaded
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak so far
    bench.run(arm)
    return resident("VmHWM") - before


def resident(name: str) -> float:
    """Return this process's resident size in MiB: current (`VmRSS`) or peak (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measure(size: str, tuning: str, data: str, options: argparse.Namespace, console: Console) -> None:
    """Measure all arms in turn, round after round, and print one table."""
    attentions = ["sdpa", *(["flash_attention_2"] if ON_GPU and is_flash_attn_2_available() else [])]
    peers = [f"{peer} {attention}" for peer in ("D", "P") for attention in attentions]
    arms = [*peers, "ours", "floor", "floor (our tile)"][: None if not ON_GPU else -1]
    times: dict[str, list[Times]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        millions = save_model(SIZES[size], folder)
        bench = Bench(folder, tuning == "lora", pairs_of(data, options, SIZES[size]["vocab_size"]), options)
        for _ in range(options.rounds):
            for arm in arms:
                times[arm].append(bench.run(arm))
    peaks = {arm: peak_of(arm, size, tuning, data, options) for arm in [*peers, "ours"]} if options.memory else {}
    where = torch.cuda.get_device_name() if ON_GPU else f"{torch.get_num_threads()} CPU thread(s)"
    checkpointing = "with" if options.gradient_checkpointing else "without"
    title = f"{data}, {size} ({millions:.0f} M), {tuning}, {options.batch_size} pairs per step"
    table = Table(title=f"{title}, {checkpointing} checkpointing, {where}")
    for heading in (
        "arm",
        "ms per step",
        "ms of the pass",
        "two epochs: ours is faster by",
        "without the pass",
        "MiB",
        "ours",
    ):
        table.add_column(heading, justify="right")

    def ratio(arm: str, of: str) -> float:
        return statistics.median(
            getattr(one, of) / getattr(own, of) for one, own in zip(times[arm], times["ours"], strict=True)
        )

    for arm in arms:
        is_floor = arm.startswith("floor")
        table.add_row(
            arm,
            f"{1000 * statistics.median(one.step for one in times[arm]):.0f}",
            "" if is_floor else f"{1000 * statistics.median(one.opponent for one in times[arm]):.0f}",
            "" if is_floor else f"{ratio(arm, 'two_epochs'):.2f}",
            f"{ratio(arm, 'step'):.2f}",
            f"{peaks[arm]:.0f}" if arm in peaks else "",
            f"{peaks['ours'] / peaks[arm]:.2f}" if arm in peaks else "",
        )
    console.print(table)
    over_d, over_p, memory = TARGETS[data]
    off = max(
        abs(a - b)
        for one, own in zip(times[peers[0]], times["ours"], strict=True)
        for a, b in zip(one.losses, own.losses, strict=True)
    )
    console.print(
        f"Targets: two epochs at least {over_d} over D and {over_p} over P; memory at most {memory} of D's; a step at most "
        f"{FLOOR} of the floor's: it is {1 / ratio('floor', 'step'):.2f}. Losses differ from D's by at most {off:.1e}."
    )


def main() -> int:
    """Measure all arms in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = ["qwen2.5-0.5b", "qwen2.5-3b"] if ON_GPU else ["small"]
    parser.add_argument("--size", nargs="+", choices=list(SIZES), default=sizes)
    parser.add_argument("--tuning", nargs="+", choices=["full", "lora"], default=["full", "lora"])
    parser.add_argument("--data", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="steps per round, not counting the first")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--gradient_checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--dataset_name", help="GSM8K's train.jsonl")
    parser.add_argument("--arm", help="run this arm once, and print its peak memory")
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    console = Console(width=160)
    if options.arm is not None:
        with tempfile.TemporaryDirectory() as name:
            save_model(SIZES[options.size[0]], Path(name))
            pairs = pairs_of(options.data[0], options, SIZES[options.size[0]]["vocab_size"])
            print(json.dumps(own_peak(options.arm, Bench(Path(name), options.tuning == ["lora"], pairs, options))))
        return 0
    for size in options.size:
        for tuning in options.tuning:
            for data in options.data:
                if data == "gsm8k" and options.dataset_name is None:
                    console.print("gsm8k: not run: pass its train.jsonl with --dataset_name")
                    continue
                measure(size, tuning, data, options, console)
    if not ON_GPU:
        console.print("Qwen2.5's shapes: not run: no GPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
