"""A user's folder and the commands typed there: data, recipes, and the results of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, load_from_disk
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import tiny
from runs import SETTINGS

Row = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """How a command ended: its exit code, and all its output."""

    code: int
    text: str


Command = Callable[..., Said]
"""Called with the arguments of `spin-trl`."""

ITERATION = ("generate", "train")
"""The phases of an iteration that produce its model."""


def chats(count: int = 6) -> list[Row]:
    """Return rows of `messages`, each with another prompt."""
    return [conversation(f"{number} boats. Which one?", f"The red boat, {number}.") for number in range(count)]


def conversation(prompt: Any, answer: Any) -> Row:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def texts(count: int = 6) -> list[Row]:
    """Return rows of `prompt` and `completion`."""
    return [{"prompt": f"{number} boats. Which one? ", "completion": "The red boat."} for number in range(count)]


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as JSON lines; return the path."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_recipe(
    path: str | Path, model: str | Path | None, rows: str | Sequence[Mapping[str, Any]] | None = None, **settings: Any
) -> str:
    """Write a recipe whose data is `rows` (default: chats), or the name of an existing file. Return the path."""
    if not isinstance(rows, str):
        rows = write_rows(Path(path).with_suffix(".jsonl"), chats() if rows is None else rows)
    known = {"num_iterations": 1, "dataset_name": rows, **({"model_name_or_path": str(model)} if model else {})}
    Path(path).write_text(yaml.safe_dump({**SETTINGS, **known, **settings}), encoding="utf-8")
    return str(path)


def play(command: Command, recipe: str, iterations: int = 1) -> None:
    """Generate and train this many iterations, without measuring them."""
    for iteration in range(iterations):
        for phase in ITERATION:
            said = command(phase, recipe, "--iteration", str(iteration))
            assert said.code == 0, said.text


def prepared(run: str | Path, tokenizer: PreTrainedTokenizerFast | None = None) -> list[tuple[str, str]]:
    """Return prompt and real response of every row of a run, read from its tokens, in the order of the prompts."""
    text = tokenizer or tiny.tokenizer()
    sides = [load_from_disk(str(Path(run, "data", side))) for side in ("train", "held-out")]
    rows = [(text.decode(row["prompt_ids"]), text.decode(row["real_ids"])) for side in sides for row in side]
    return sorted(rows)


def sides(run: str | Path) -> tuple[list[str], list[str]]:
    """Return the prompts that a run trains on, and those that it holds out."""
    train, held_out = (load_from_disk(str(Path(run, "data", side)))["prompt"] for side in ("train", "held-out"))
    return sorted(train), sorted(held_out)


def save_dataset(path: str | Path, rows: Sequence[Row]) -> str:
    """Write rows with `save_to_disk`; return the path."""
    Dataset.from_list(list(rows)).save_to_disk(path)
    return str(path)


def adapter(model: PreTrainedModel, base: str | Path, **changes: Any) -> PeftModel:
    """Write a model with an adapter that has an effect, trained on a base model of this name."""
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    adapted = get_peft_model(model, LoraConfig(**{**lora, **changes}))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    return adapted


def with_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return the same tokenizer, which now begins every text with BOS."""
    tokenizer.add_special_tokens({"bos_token": tiny.END_OF_TEXT})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tiny.END_OF_TEXT} $A", special_tokens=[(tiny.END_OF_TEXT, tokenizer.bos_token_id)]
    )
    return tokenizer
