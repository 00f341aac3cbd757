"""The recipes of `smollm2-135m` run with their own YAML: a tiny Llama in place of the pretrained model, a few rows, a
CPU.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes import small
from spin_trl.cli import main
from spin_trl.config.fetched import FETCHABLE
from spin_trl.config.shipped import recipes
from spin_trl.run.recipe import read_recipe

NAMES = ("smollm2-135m/demo", "smollm2-135m/mbpp", "smollm2-135m/svamp")

pytestmark = pytest.mark.usefixtures("fetched")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty current folder that commands run in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def svamp(tmp_path: Path) -> str:
    """Return a folder like SVAMP's: 120 problems of 40 templates, and 12 of the challenge set."""
    folder = tmp_path / "svamp"
    folder.mkdir()

    def problems(name: str, words: Iterator[str], each: int) -> None:
        with (folder / name).open("w", encoding="utf-8", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(["Question", "Numbers", "Equation", "Answer", "Body"])
            for word in words:
                for number in range(each):
                    body = f"Ann has number0 {word} ."
                    writer.writerow([f"{body} How many ?", f"{number}.0", "+ number0 1.0", f"{number + 1}.0", body])

    problems("train.csv", (f"boats{chr(97 + n // 10)}{chr(97 + n % 10)}" for n in range(40)), 3)
    problems("dev.csv", (f"birds{chr(97 + n)}" for n in range(12)), 1)
    return str(folder)


def settings_of(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(recipes()[name].read_text(encoding="utf-8")))


def done(run: Path) -> list[tuple[str, str]]:
    entries = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(entry["phase"], entry["stage"]) for entry in entries]


def test_these_ship_and_train_a_model_that_can_be_fetched() -> None:
    """They use SFT first, in float32, so that the same settings work on a CPU and on any GPU."""
    assert {name for name in recipes() if name.startswith("smollm2-135m")} == set(NAMES)
    for name in NAMES:
        settings = settings_of(name)
        assert settings["model_name_or_path"] in FETCHABLE
        assert (settings["start"], settings["dtype"], settings["bf16"]) == ("sft", "float32", False)
        assert "spin-trl fetch smollm2-135m" in recipes()[name].read_text(encoding="utf-8")


def test_make_demo_sets_up_fetches_and_plays() -> None:
    """Running it takes too long for the checks of every change."""
    top = Path(__file__).parents[2]
    target = (top / "Makefile").read_text(encoding="utf-8").partition("\ndemo: $(READY)")[2].partition("\n\n")[0]
    commands = [line.strip() for line in target.splitlines()[1:]]
    assert commands == ["$(BIN)/spin-trl fetch smollm2-135m", "$(BIN)/spin-trl run smollm2-135m/demo"]
    assert "make demo" not in (top / ".ci" / "run").read_text(encoding="utf-8")


def test_svamp_takes_300_and_100_problems_two_iterations_and_two_arms(svamp: str) -> None:
    """One more setting selects all training problems; held-out problems share no text with them."""
    recipe = read_recipe("smollm2-135m/svamp", ["--dataset_config", svamp])
    assert (recipe.data.max_rows, recipe.play.held_out_max, recipe.play.num_iterations) == (300, 100, 2)
    assert recipe.play.baseline == ["sft", "sft-dft"]
    assert recipe.play.scorer == ["equation"]
    held_out, test = recipe.data.held_out(), recipe.data.test()
    assert held_out is not None
    assert test is not None
    whole = read_recipe("smollm2-135m/svamp", ["--dataset_config", svamp, "--max_rows", "3000"]).data.train()
    assert (len(whole), len(held_out), len(test)) == (111, 9, 12)
    texts = [
        {" ".join(row["messages"][1]["content"].split()[3:4]) for row in rows} for rows in (whole, held_out, test)
    ]
    assert not texts[0] & texts[1]
    assert not (texts[0] | texts[1]) & texts[2]
    assert whole[0]["messages"][0] == {"role": "system", "content": "Write the equation."}


@pytest.mark.slow
def test_the_demo_plays_with_nothing_but_the_package(here: Path) -> None:
    """These are base, SFT, an iteration, an arm and the test set, at the shipped size but with short answers.

    The tiny model's tokenizer splits a text into more tokens than the pretrained model's.
    """
    size = ["--max_new_tokens", "6", "--max_length", "512"]
    assert main(["run", "smollm2-135m/demo", "--run_dir", "run", *size]) == 0
    found = done(Path("run"))
    for step in (
        ("evaluate", "base"), ("train", "start"), ("generate", "iteration-0"), ("train", "iteration-0"),
        ("gate", "iteration-0"), ("train", "baseline/sft/iteration-0"), ("test", "start"),
    ):  # fmt: skip
        assert step in found, found
    assert small.journal(Path("run"), "train", "iteration-0")["pairs"]["total"] == 64
    for stage in ("base", "start", "iteration-0"):
        figures = small.figures(Path("run"), stage)
        assert figures["held_out"] == 24
        assert 0 <= figures["score_greedy"] <= 1
    table = Path("run/table.txt").read_text(encoding="utf-8")
    assert "sft 0" in table


@pytest.mark.slow
def test_svamp_plays_on_files_as_published(here: Path, svamp: str) -> None:
    """All of its stages run, at a small size."""
    size = ["--max_rows", "24", "--held_out_max", "6", "--max_new_tokens", "6", "--sft_num_train_epochs", "1"]
    assert main(["run", "smollm2-135m/svamp", "--dataset_config", svamp, "--use_cpu", "--run_dir", "run", *size]) == 0
    found = done(Path("run"))
    for arm in ("sft", "sft-dft"):
        assert ("evaluate", f"baseline/{arm}/iteration-1") in found
    assert small.figures(Path("run"), "iteration-1")["held_out"] == 6


@pytest.mark.slow
def test_a_smoke_run_of_mbpp_works_on_a_cpu(here: Path) -> None:
    """Its answers are run, so there are test scores, whatever their values."""
    tasks = [
        {
            "text": f"Write a function that adds {n}.", "code": f"def f{n}(x):\r\n    return x + {n}", "task_id": n,
            "test_setup_code": "", "test_list": [f"assert f{n}({x}) == {x + n}" for x in range(3)],
        }
        for n in (*range(11, 20), *range(511, 520), *range(601, 620))
    ]  # fmt: skip
    Path("mbpp.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks), encoding="utf-8")
    run = ["run", "smollm2-135m/mbpp", "--dataset_config", "mbpp.jsonl", "--smoke", "--run_dir", "run"]
    # Without isolation if a test machine has none: a tiny model writes no program.
    size = ["--max_new_tokens", "6", "--max_length", "512", "--test_name", "", "--evaluate_greedy", "false"]
    assert main([*run, *size, "--allow_unisolated_code", "true"]) == 0
    figures = small.figures(Path("run"), "iteration-1")
    assert {"score/all", "score/unseen", "score/share"} <= set(figures)
    assert figures["score/all"] == 0
