"""Figures of one model: accuracy and probability of the reference equation, and what it has kept of other tasks."""

from __future__ import annotations

import contextlib
import json
import math
import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from spin_trl.data.prepare import prepare
from spin_trl.data.published.mbpp import load_mbpp
from spin_trl.data.published.svamp import Problem, as_rows, read_problems, split_by_template
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.evaluation.scorers.equation import equation_value
from spin_trl.generation.engine import Sampling
from spin_trl.generation.engines.transformers import TransformersEngine
from spin_trl.generation.work import MicroBatches
from spin_trl.models.logps import response_logps

from .sizes import Size

LIMIT = Sampling(
    temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=24, max_length=None, num_generations=1, batch_size=500, seed=0
)
"""Greedy decoding of at most 24 tokens."""

Autocast = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Tasks:
    """The data that models are trained and measured on.

    Attributes:
        training: training problems.
        development: problems for choosing settings and points of training.
        test: the challenge set, which affects no choice.
        retention: rows of other tasks, by their name.
        scored: number of test problems, from the first, on which the probability of the reference is measured.
    """

    training: list[Problem]
    development: list[Problem]
    test: list[Problem]
    retention: dict[str, Dataset]
    scored: int

    @classmethod
    def read(cls, data: Path, size: Size) -> Tasks:
        """Read the published files in a folder.

        Args:
            data: folder with `svamp/{train,test}.csv`, and for retention `gsm8k/test.jsonl` and `mbpp/mbpp.jsonl`.
            size: how many rows to take: training problems are drawn with a fixed seed.
        """
        rest, held_out = split_by_template(read_problems(data / "svamp" / "train.csv").problems, size.development)
        if size.rows is not None:
            rest = random.Random(0).sample(rest, min(size.rows, len(rest)))
        tested = read_problems(data / "svamp" / "test.csv").problems
        return cls(rest, held_out, tested[: size.test], _retention(data, size.retention), size.scored)

    def bodies(self) -> set[str]:
        """Return the bodies of all training and development problems."""
        return {problem.body for problem in (*self.training, *self.development)}


def measure(
    model: Any, tokenizer: Any, tasks: Tasks, *, autocast: Autocast = contextlib.nullcontext
) -> dict[str, Any]:
    """Measure a model, and leave it in evaluation mode.

    Returns:
        For development and test problems: greedy accuracy, mean probability of the reference equation (the accuracy to
        expect of one sample, if only that equation were right), and mean NLL per token of it; of the test problems, these
        two on the first ones only. For test problems also the results by problem, as a string of `1` and `0`, and the
        accuracy without problems whose body is in the training file. For every task of retention the mean NLL per token of
        its answers.
    """
    template = PairTemplate(tokenizer)
    model.eval()
    parts = {"development": (tasks.development, len(tasks.development)), "test": (tasks.test, tasks.scored)}
    found: dict[str, Any] = {name: _on(model, template, *part, autocast) for name, part in parts.items()}
    known, correct = tasks.bodies(), found["test"]["correct"]
    new = [mark for mark, problem in zip(correct, tasks.test, strict=True) if problem.body not in known]
    found["test"]["accuracy_new_bodies"] = 100 * new.count("1") / len(new)
    del found["development"]["correct"]
    for name, rows in tasks.retention.items():
        prepared = prepare(rows, template, max_length=1024)
        found[f"{name}_nll"] = round(_nll(prepared, _logps(model, template, prepared, autocast, 25)), 4)
    return found


def _on(
    model: Any, template: PairTemplate, problems: Sequence[Problem], scored: int, autocast: Autocast
) -> dict[str, Any]:
    rows = prepare(as_rows(problems), template)
    prompts = rows["prompt_ids"]
    engine = TransformersEngine(model, template.eos_ids, template.tokenizer.pad_token_id, autocast)
    marks = [""] * len(prompts)
    for batch in MicroBatches([len(prompt) for prompt in prompts], LIMIT.num_generations, LIMIT.batch_size):
        answers = engine.answer([prompts[task.row] for task in batch], LIMIT, 0)
        for task, answer in zip(batch, answers, strict=True):
            text = str(template.tokenizer.decode(answer.ids, skip_special_tokens=True))
            marks[task.row] = "01"[equation_value(text) == equation_value(problems[task.row].equation)]
    rows = rows.select(range(min(scored, len(rows))))
    logps = _logps(model, template, rows, autocast, 250)
    return {
        "accuracy": 100 * marks.count("1") / len(marks),
        "probability": round(100 * statistics.fmean(map(math.exp, logps)), 3),
        "nll": round(_nll(rows, logps), 4),
        "correct": "".join(marks),
    }


def _logps(model: Any, template: PairTemplate, rows: Dataset, autocast: Autocast, batch_size: int) -> list[float]:
    pairs = list(zip(rows["prompt_ids"], rows["real_ids"], strict=True))
    pad_token_id = template.tokenizer.pad_token_id
    return response_logps(model, pairs, pad_token_id=pad_token_id, batch_size=batch_size, autocast=autocast)


def _nll(rows: Dataset, logps: Sequence[float]) -> float:
    return -sum(logps) / sum(map(len, rows["real_ids"]))


def _retention(data: Path, count: int) -> dict[str, Dataset]:
    """Return rows of each other task that the folder has: GSM8K's answers, and MBPP's code."""
    found = {}
    gsm8k, mbpp = data / "gsm8k" / "test.jsonl", data / "mbpp" / "mbpp.jsonl"
    if gsm8k.exists():
        lines = [json.loads(line) for line in gsm8k.read_text(encoding="utf-8").splitlines()[:count]]
        turns = [(("user", line["question"]), ("assistant", line["answer"])) for line in lines]
        found["gsm8k"] = Dataset.from_list(
            [{"messages": [{"role": role, "content": text} for role, text in one]} for one in turns]
        )
    if mbpp.exists():
        found["mbpp"] = load_mbpp(f"test[:{count}]", str(mbpp)).select_columns("messages")
    return found


def bfloat16() -> AbstractContextManager[object]:
    """Return the context that runs a model on a GPU in bfloat16."""
    return torch.autocast("cuda", dtype=torch.bfloat16)
