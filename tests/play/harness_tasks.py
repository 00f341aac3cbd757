"""Create lm-evaluation-harness tasks on local data, and compute a model's scores on them without the harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

import tiny
from runs import logp

SHOTS = 2

CHOICE_TASK: dict[str, Any] = {
    "task": "pick_colour",
    "output_type": "multiple_choice",
    "test_split": "test",
    "fewshot_split": "train",
    "fewshot_config": {"sampler": "first_n"},
    "doc_to_text": "{{question}}",
    "doc_to_target": "answer",
    "doc_to_choice": "choices",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}

ANSWER_TASK: dict[str, Any] = {
    "task": "say_colour",
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["e"], "max_gen_toks": 5, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}

QUESTIONS = 30


def choice_rows(first: int, count: int) -> list[dict[str, Any]]:
    """Return questions with two to four choices of different lengths."""
    return [
        {
            "question": f"{tiny.NAMES[i % 7]} {tiny.VERBS[i % 5]} {i} things. Which?",
            "choices": [
                f"{tiny.COLOURS[(i + k) % 6]}{' big' * ((i + k) % 2)} {tiny.THINGS[(3 * i + k) % 8]}"
                for k in range(2 + i % 3)
            ],
            "answer": i % 2,
        }
        for i in range(first, first + count)
    ]


def answer_rows(count: int = 5) -> list[dict[str, Any]]:
    return [
        {"question": f"{name} sells a {tiny.THINGS[i]}. {i}?", "answer": "?"}
        for i, name in enumerate(tiny.NAMES[:count])
    ]


def write(folder: Path, answers: list[dict[str, Any]] | None = None) -> Path:
    """Write the tasks and their data, and return the folder for `--include_path`."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "choice-test": choice_rows(0, QUESTIONS),
        "choice-train": choice_rows(50, 6),
        "answers": answers or answer_rows(),
    }
    files = {}
    for name, rows in data.items():
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    both = {"test": str(files["choice-test"]), "train": str(files["choice-train"])}
    for task, splits in ((CHOICE_TASK, both), (ANSWER_TASK, {"test": str(files["answers"])})):
        settings = {**task, "dataset_path": "json", "dataset_kwargs": {"data_files": splits}}
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (folder / "missing.yaml").write_text(
        yaml.safe_dump({**CHOICE_TASK, "task": "missing", "dataset_path": "nobody/nothing"}), encoding="utf-8"
    )
    return folder


def choice_logps(model: Any, tokenizer: Any, shots: int = 0) -> list[list[float]]:
    """Return log p(choice | examples, question) of every choice of every question, each in a separate forward pass."""
    examples = "".join(f"{row['question']} {row['choices'][row['answer']]}\n\n" for row in choice_rows(50, 6)[:shots])

    def of_row(row: dict[str, Any]) -> list[float]:
        prompt = tokenizer.encode(examples + row["question"], add_special_tokens=False)
        return [logp(model, prompt, tokenizer.encode(f" {one}", add_special_tokens=False)) for one in row["choices"]]

    return [of_row(row) for row in choice_rows(0, QUESTIONS)]


def choice_accuracies(logps: list[list[float]], limit: int | None = None) -> dict[str, float]:
    """Return acc (the most likely choice is right) and acc_norm (the choice with the greatest log-probability per
    character is).
    """
    right = {"acc": 0, "acc_norm": 0}
    rows = choice_rows(0, QUESTIONS)[:limit]
    for row, sums in zip(rows, logps, strict=False):
        each = [value / len(one) for value, one in zip(sums, row["choices"], strict=True)]
        right["acc"] += sums.index(max(sums)) == row["answer"]
        right["acc_norm"] += each.index(max(each)) == row["answer"]
    return {name: count / len(rows) for name, count in right.items()}


def greedy_answer(model: Any, tokenizer: Any, question: str) -> str:
    """Return a model's greedy answer, token by token without a cache, up to an `e`, EOS, or five tokens."""
    ids = tokenizer.encode(question, add_special_tokens=False)
    said: list[int] = []
    with torch.no_grad():
        for _ in range(5):
            token = int(model(input_ids=torch.tensor([ids + said])).logits[0, -1].argmax())
            said.append(token)
            if token == tokenizer.eos_token_id:
                break
    text = tokenizer.decode(said, skip_special_tokens=False)
    return text.split("e")[0].split(tokenizer.eos_token)[0]
