"""`spin-trl pairs`, the whole command on a run: what it does, prints and refuses."""

from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

import runs
from messages import names
from refusals import refusal
from spin_trl.cli import main


def test_pairs_are_made_with_the_runs_own_scorer(tmp_path: Path, llama_folder: Path, capsys: Any) -> None:
    """The run has only begun; the output gives the counts and the folder."""
    recipe = runs.recipe(tmp_path, llama_folder, scorer="regex:[aeiou]{2}|w")
    assert main(["start", str(recipe)]) == 0
    capsys.readouterr()
    assert main(["pairs", str(tmp_path / "run"), "--stage", "last", "--num_generations", "4"]) == 0
    printed = capsys.readouterr().out
    (folder,) = (tmp_path / "run/pairs").iterdir()
    assert folder.name.endswith("-start")
    pairs = load_dataset(str(folder), split="train")
    assert names(printed, len(pairs), 12, 4, "start", folder.name)
    assert main(["pairs", str(tmp_path / "run"), "--stage", "last", "--num_generations", "4"]) == 0
    assert capsys.readouterr().out == printed, "the same command again shows the same pairs"
    assert names(refusal(capsys, "pairs", str(tmp_path / "run"), "--stage", "last"), "num_generations", "8", "4")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--num_generations", "1"), ("--num_generations", "10001"), ("--max_prompts", "0"), ("--seed", "-1")],
)
def test_a_number_out_of_bounds_is_named(
    option: str, value: str, tmp_path: Path, llama_folder: Path, capsys: Any
) -> None:
    recipe = runs.recipe(tmp_path, llama_folder)
    assert main(["start", str(recipe)]) == 0
    message = refusal(capsys, "pairs", str(tmp_path / "run"), "--scorer", "gsm8k", f"{option}={value}")
    assert names(message, f"`{option}`", value)


def test_a_run_that_is_not_there_is_refused(capsys: Any) -> None:
    assert names(refusal(capsys, "pairs", "nowhere", "--scorer", "gsm8k"), "nowhere", "recipe.yaml")
