"""Generation: useful tokens per second, compared with loops that run every batch until its longest answer ends.

The peers call `generate` on fixed batches until the last response of each has ended: the official SPIN code on 16 prompts at
a time, in file order; TRL's trainers for online training (`GRPOTrainer`, without vLLM and with its defaults) on the 8
sequences of a step, in random order. Ours is what a run uses: micro-batches of prompts of similar length, in chunks of new
tokens, dropping finished rows between chunks. All sample the same model at temperature 1 on the same prompts, with the same
limit. The model's answers should end like the data's, so the default is the start of the recipe `gsm8k-cpu`, a Llama with
5 M parameters trained on GSM8K; the benchmark trains it once and keeps it in `--cache`, unless `--model` names another one.
Useful tokens are those up to a row's end; the live share is their share of all sampled tokens. The bound without waste is
the speed-up that a peer would have if all its sampled tokens were useful.

    python benchmarks/generation.py --dataset_name PATH/train.jsonl [--cache FOLDER | --model FOLDER]
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from spin_trl import SPINConfig
from spin_trl.data.load import load_rows
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.generation.engine import Response, Sampling, micro_batch_seed
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.generation.work import MicroBatches

RECIPE = Path(__file__).parent.parent / "recipes" / "gsm8k-cpu" / "spin.yaml"
COLUMN_MAPPING = {"question": "prompt", "answer": "completion"}
TARGET = 1.5
OURS = "ours"


@dataclass(frozen=True)
class Loop:
    """A plain loop over fixed batches.

    Attributes:
        batch_size: number of prompts that are answered together.
        is_shuffled: whether they come in random order, and not in that of the file.
    """

    batch_size: int
    is_shuffled: bool


OFFICIAL = "official"
PEERS = {OFFICIAL: Loop(16, False), "TRL, online": Loop(8, True)}


@dataclass
class Arm:
    """The result of one pass of an arm over all prompts.

    Attributes:
        lengths: number of tokens of every response, in the order of the prompts.
        ended: share of responses that ended with EOS.
        computed: number of sampled tokens, including those after an EOS.
        seconds: wall time.
        cpu_seconds: CPU time of this process over all cores.
    """

    lengths: list[int]
    ended: float
    computed: int
    seconds: float
    cpu_seconds: float

    @property
    def useful(self) -> int:
        """Number of tokens up to and including the end of every response."""
        return sum(self.lengths)


def timed(generate: Callable[..., tuple[list[Response], int]], *arguments: object) -> Arm:
    """Run and time an arm, which returns the responses and the number of tokens it sampled."""
    started, cpu_started = time.perf_counter(), time.process_time()
    responses, computed = generate(*arguments)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    ended = sum(response.finish_reason == "eos" for response in responses) / len(responses)
    return Arm([len(response.ids) for response in responses], ended, computed, seconds, cpu_seconds)


def ours(
    model: PreTrainedModel, prompts: Sequence[list[int]], sampling: Sampling, eos_ids: list[int], pad_id: int
) -> tuple[list[Response], int]:
    """Generate as a run does in its generate phase."""
    engine = TransformersEngine(model, eos_ids, pad_id)
    responses: dict[int, Response] = {}
    for number, tasks in enumerate(MicroBatches([len(p) for p in prompts], 1, sampling.batch_size)):
        seed = micro_batch_seed(sampling.seed, 0, number)
        answers = engine.answer([prompts[task.row] for task in tasks], sampling, seed)
        responses |= {task.row: answer for task, answer in zip(tasks, answers, strict=True)}
    return [responses[row] for row in range(len(prompts))], engine.computed_tokens


def plain_sampling(eos_ids: list[int], pad_id: int, max_new_tokens: int | None) -> GenerationConfig:
    """Return transformers' generation settings for sampling at temperature 1 from all tokens."""
    return GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=eos_ids,
        pad_token_id=pad_id,
        max_new_tokens=max_new_tokens,
    )


def plainly(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    eos_ids: list[int],
    pad_id: int,
    loop: Loop,
) -> tuple[list[Response], int]:
    """Generate with a plain loop: fixed batches, each until its longest answer ends."""
    torch.manual_seed(sampling.seed)
    order = torch.randperm(len(prompts)).tolist() if loop.is_shuffled else list(range(len(prompts)))
    responses: dict[int, Response] = {}
    computed = 0
    config = plain_sampling(eos_ids, pad_id, sampling.max_new_tokens)
    for start in range(0, len(prompts), loop.batch_size):
        rows = order[start : start + loop.batch_size]
        batch = [prompts[row] for row in rows]
        width = max(len(prompt) for prompt in batch)
        with torch.inference_mode():
            output = cast(Any, model).generate(
                input_ids=torch.tensor([[pad_id] * (width - len(p)) + p for p in batch], device=model.device),
                attention_mask=torch.tensor(
                    [[0] * (width - len(p)) + [1] * len(p) for p in batch], device=model.device
                ),
                generation_config=config,
            )
        fresh = output[:, width:]
        computed += fresh.numel()
        for row, tokens in zip(rows, fresh.tolist(), strict=True):
            end = next((i for i, token in enumerate(tokens) if token in eos_ids), None)
            responses[row] = Response(tokens, "length") if end is None else Response(tokens[: end + 1], "eos")
    return [responses[row] for row in range(len(prompts))], computed


def trained_model(dataset_name: str, cache: Path) -> Path:
    """Train the start of the recipe `gsm8k-cpu` on the first rows of the data, once, and return its folder."""
    command = [sys.executable, "-m", "spin_trl", "start", str(RECIPE)]
    command += ["--dataset_name", dataset_name, "--run_dir", str(cache)]
    subprocess.run(command, check=True)
    return cache / "start" / "model"


def load_prompts(dataset_name: str, model_path: Path, count: int) -> tuple[list[list[int]], list[int], list[int], int]:
    """Load the last `count` prompts, unseen by the model, the lengths of their real responses, and EOS and pad ids."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    template = PairTemplate(tokenizer)
    dataset = load_rows(dataset_name, column_mapping=COLUMN_MAPPING)
    rows = prepare(dataset.select(range(max(len(dataset) - count, 0), len(dataset))), template)
    return rows["prompt_ids"][:], [len(ids) for ids in rows["real_ids"]], template.eos_ids, tokenizer.pad_token_id


def main() -> int:
    """Measure all arms in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", help="GSM8K's train.jsonl; without it, nothing is measured")
    parser.add_argument("--model", type=Path, help="folder of a model and its tokenizer; default: train one")
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/benchmark-generation"), help="folder in which that model is trained"
    )
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument(
        "--batch_size", type=int, default=SPINConfig.generation_batch_size, help="size of our micro-batches"
    )
    parser.add_argument("--max_new_tokens", type=int, default=400, help="longer than GSM8K's longest answer")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    console = Console()
    if options.dataset_name is None:
        console.print("Not measured: name GSM8K's training data with --dataset_name PATH/train.jsonl.")
        return 0
    transformers_logging.set_verbosity_error()
    model_path = options.model or trained_model(options.dataset_name, options.cache)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    prompts, real_lengths, eos_ids, pad_id = load_prompts(options.dataset_name, model_path, options.prompts)
    ways: dict[str, Callable[..., tuple[list[Response], int]]] = {
        **{name: functools.partial(plainly, loop=loop) for name, loop in PEERS.items()},
        OURS: ours,
    }
    arms: dict[str, list[Arm]] = {name: [] for name in ways}
    for seed in range(options.repeats + 1):
        sampling = Sampling(1.0, 1.0, 0, options.max_new_tokens, None, 1, options.batch_size, seed)
        for name, generate in list(ways.items())[:: 1 if seed % 2 else -1]:
            some = prompts if seed else prompts[:32]  # the first round is a warm-up and not counted
            found = timed(generate, model, some, sampling, eos_ids, pad_id)
            if seed:
                arms[name].append(found)
    table = Table(
        title=f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {len(prompts)} prompts, "
        f"T = 1, {torch.get_num_threads()} thread(s), medians of {options.repeats}"
    )
    for heading in ("", "batch", "useful tokens/s", "live %", "tokens (mean)", "longest", "ended %"):
        table.add_column(heading, justify="right")
    batch_sizes = {**{name: loop.batch_size for name, loop in PEERS.items()}, OURS: options.batch_size}
    for name, batch_size in batch_sizes.items():
        table.add_row(
            name,
            str(batch_size),
            f"{statistics.median(arm.useful / arm.seconds for arm in arms[name]):,.0f}",
            f"{100 * statistics.median(arm.useful / arm.computed for arm in arms[name]):.1f}",
            f"{statistics.mean(arm.useful / len(arm.lengths) for arm in arms[name]):.1f}",
            str(max(max(arm.lengths) for arm in arms[name])),
            f"{100 * statistics.mean(arm.ended for arm in arms[name]):.1f}",
        )
    table.add_row("real", "", "", "", f"{statistics.mean(real_lengths):.1f}", str(max(real_lengths)), "")
    console.print(table)
    for name in PEERS:
        pairs = list(zip(arms[OURS], arms[name], strict=True))
        by_time = [a.useful / a.seconds / (b.useful / b.seconds) for a, b in pairs]
        by_cpu = [a.useful / a.cpu_seconds / (b.useful / b.cpu_seconds) for a, b in pairs]
        bound = statistics.median(arm.computed / arm.useful for arm in arms[name])
        console.print(
            f"Ours over {name}: {statistics.median(by_time):.2f}x the useful tokens per second ({min(by_time):.2f} to "
            f"{max(by_time):.2f}; by CPU time {statistics.median(by_cpu):.2f}x). Target: at least {TARGET}x. Bound without "
            f"waste: {bound:.2f}x."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
