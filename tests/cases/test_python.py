"""Cases of arguments and modules in Python: they are played, or refused by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl import DPOConfig

import tiny
from cases.playing import Command, adapter, chats, write_recipe
from messages import refused
from runs import SETTINGS, steps
from spin_trl import SelfPlay, SelfPlayConfig, SPINConfig
from spin_trl.errors import DataError, RecipeError

OF_AN_ITERATION = {"use_cpu": True, "bf16": False, "max_length": 64, "report_to": "none", "disable_tqdm": True}


def self_play(model: Any, rows: Any, args: Any = None, **more: Any) -> SelfPlay:
    args = SPINConfig("run", **OF_AN_ITERATION, max_new_tokens=8) if args is None else args
    play = SelfPlayConfig(num_iterations=1, held_out_fraction=SETTINGS["held_out_fraction"])
    return SelfPlay(model=model, args=args, play=play, train_dataset=rows, **more)


ROWS: dict[str, Callable[[Dataset], Any]] = {
    "list": lambda rows: rows.to_list(),
    "torch": lambda rows: rows.with_format("torch"),
    "numpy": lambda rows: rows.with_format("numpy"),
    "pandas": lambda rows: rows.to_pandas(),
    "arrow": lambda rows: rows.with_format("arrow"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_every_usual_kind_are_played(kind: str, llama_folder: Path) -> None:
    """Bug class: a list has no `column_names`, and rows in torch's or numpy's format fail far from where they were
    passed.
    """
    session = self_play(str(llama_folder), ROWS[kind](Dataset.from_list(chats())))
    session.run_phase("start", 0)
    assert steps("run") == [("prepare", "data"), ("evaluate", "start")]


def test_a_dpo_config_is_completed(llama_folder: Path) -> None:
    """Bug class: a parent class's configuration is accepted, and its missing attribute fails later."""
    args = DPOConfig("run", **OF_AN_ITERATION, max_steps=1, save_strategy="no")
    session = self_play(str(llama_folder), Dataset.from_list(chats(3)), args)
    for phase in ("generate", "train"):
        session.run_phase(phase, 0)
    assert steps("run")[1:] == [("generate", "iteration-0"), ("train", "iteration-0")]


def test_a_peft_model_whose_base_is_on_no_disk_is_played() -> None:
    """Bug class: `base_model_name_or_path` names nothing, and the Hub is queried for it."""
    model = adapter(tiny.model(), "")
    session = self_play(model, Dataset.from_list(chats(3)), processing_class=tiny.tokenizer())
    for phase in ("generate", "train"):
        session.run_phase(phase, 0)
    assert Path("run/start/base/config.json").is_file()
    assert Path("run/iteration-0/model/adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"rows": 7}, ("`train_dataset`", "int")),
        ({"args": 7}, ("`args`", "int")),
        ({"play": {}}, ("`play`", "dict")),
        ({"processing_class": "tokenizer"}, ("`tokenizer`", "str", "'tokenizer'")),
        ({"peft_config": {"r": 4}}, ("`peft_config`", "dict")),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_by_name(changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    """The same class: the message has the argument and what it is."""
    known = {"model": "model", "train_dataset": changes.pop("rows", chats()), "args": SPINConfig("run", use_cpu=True)}
    with refused((DataError, RecipeError), *parts):
        SelfPlay(**{**known, **changes})


def test_a_scorer_in_the_current_folder_is_found(command: Command, llama_folder: Path) -> None:
    """Bug class: a console script does not search where `python -m` does, so a user's module is not found."""
    Path("myscore.py").write_text(
        "def score(prompt, real, generated):\n    return float(real[:2] in generated)\n", encoding="utf-8"
    )
    before = list(sys.path)
    said = command("start", write_recipe("my.yaml", llama_folder, scorer="myscore:score"))
    assert said.code == 0
    assert sys.path == before
    assert '"score"' in Path("runs/my/start/metrics.json").read_text(encoding="utf-8")
