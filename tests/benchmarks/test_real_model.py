"""`benchmarks/real_model.py` plays its parts in order, knows what is done, gives equal compute, and writes the table."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))  # last, because its files share names with the tests' folders

import real_model
from smollm2.sizes import SIZES, Part, Size, budget_of, chosen_rate, is_done, parts_of
from smollm2.table import difference, table_of

PILOT, FULL = SIZES["pilot"], SIZES["full"]


def line(part: str, *, correct: str = "1100", size: Size = PILOT, last: bool = True, **told: Any) -> dict[str, Any]:
    """Return a line of the results."""
    parsed = Part.parse(part)
    return {
        "size": size.name, "part": part, "arm": parsed.arm, "seed": parsed.seed, "learning_rate": parsed.learning_rate,
        "point": "last" if last else "best", "last": last, "development": {"accuracy": 50.0, "nll": 1.0},
        "test": {"accuracy": 100 * correct.count("1") / len(correct), "probability": 20.0, "correct": correct}, **told,
    }  # fmt: skip


def test_a_part_is_named_by_arm_seed_and_learning_rate() -> None:
    for name in ("base", "sft/1", "spin/0/1e-5"):
        assert Part.parse(name).name == name
    for wrong in ("sft", "spin/0", "base/0", "spin/x/1e-5", "spin/0/fast"):
        with pytest.raises(argparse.ArgumentTypeError):
            Part.parse(wrong)


def test_a_part_is_finished_once_its_last_line_is_there() -> None:
    """Only lines of its own size count; lines from before sizes existed are other measurements."""
    part = Part("spin", 0, "1e-5")
    assert not is_done([], part, PILOT)
    assert not is_done([line("spin/0/1e-5", last=False)], part, PILOT)
    assert not is_done([line("spin/0/1e-5", size=FULL), {"part": "spin/0/1e-5", "last": True}], part, PILOT)
    assert is_done([line("spin/0/1e-5", last=False), line("spin/0/1e-5")], part, PILOT)


def test_the_pilot_is_what_it_says() -> None:
    """It has 300 and 100 problems, 1,000 to test and 500 to score, 100 rows of retention, and two iterations, measured
    once.
    """
    assert (PILOT.rows, PILOT.development, PILOT.test, PILOT.scored, PILOT.retention) == (300, 100, 1000, 500, 100)
    assert (PILOT.start_epochs, PILOT.iterations, PILOT.measures_each) == (3, 2, False)
    names = [part.name for part in parts_of(PILOT, [])]
    assert names == ["sft/0", "spin/0/1e-5", "space/0/1e-5", "sft-continued/0/1e-5", "base"]


def test_the_full_size_begins_with_the_most_important_and_chooses_rates_on_development_problems() -> None:
    parts = [part.name for part in parts_of(FULL, [])]
    assert parts[:7] == ["sft/0"] + [
        f"{arm}/0/{rate}" for arm in ("spin", "sft-continued") for rate in FULL.learning_rates
    ]
    assert {part.partition("/")[0] for part in parts} == {
        "base",
        "sft",
        "spin",
        "sft-continued",
        "space",
        "iris",
        "sft-dft",
    }
    assert [part for part in parts if "/1" in part and not part.startswith("s")] == ["iris/0/1e-5"]
    accuracies = {"3e-6": (60.0, 0.5), "1e-5": (61.0, 0.9), "3e-5": (61.0, 0.8)}
    played = [
        line(f"spin/0/{rate}", size=FULL, development={"accuracy": accuracy, "nll": nll})
        for rate, (accuracy, nll) in accuracies.items()
    ]
    assert chosen_rate(played[:2], "spin", FULL) is None
    assert chosen_rate(played, "spin", FULL) == "3e-5"
    later = [part.name for part in parts_of(FULL, played) if part.seed]
    assert later == ["sft/1", "spin/1/3e-5", "sft/2", "spin/2/3e-5"]


def test_a_round_needs_only_what_earlier_rounds_made() -> None:
    """A missing start is trained first, even if its line is there; SFT continued comes after SPIN, which sets its
    compute.
    """
    todo = [Part.parse(name) for name in ("sft-continued/0/1e-5", "spin/0/1e-5", "base", "space/1/1e-5")]
    rounds = real_model.rounds_of(todo, lambda seed: seed == 1)
    assert [[part.name for part in parts] for parts in rounds] == [
        ["sft/0"],
        ["spin/0/1e-5"],
        ["sft-continued/0/1e-5", "base", "space/1/1e-5"],
    ]
    assert real_model.rounds_of([Part("base")], lambda seed: False) == [[Part("base")]]


def test_sft_continued_gets_the_compute_of_self_play() -> None:
    """The compute is that of the same seed, and of the same learning rate if there are several."""
    lines = [
        line("spin/0/1e-5", compute={"total": 900.0}), line("spin/0/3e-5", compute={"total": 1000.0}),
        line("spin/0/1e-5", compute={"total": 500.0}, last=False), line("space/0/1e-5", compute={"total": 7.0}),
    ]  # fmt: skip
    assert budget_of(lines, Part("sft-continued", 0, "1e-5"), PILOT) == 900
    assert budget_of(lines, Part("sft-continued", 0, "1e-4"), PILOT) == 1000
    assert budget_of(lines, Part("sft-continued", 1, "1e-5"), PILOT) is None


def test_steps_are_those_whose_compute_is_nearest() -> None:
    """With rows of 10 tokens on average, a step of 16 rows costs 3 x 160 = 480 forward passes over a token."""
    from smollm2.arms import steps_within

    rows = Dataset.from_list([{"input_ids": [1] * 8}, {"input_ids": [1] * 12}])
    assert [steps_within(compute, rows) for compute in (1, 4800, 4800 + 241, 4800 + 239)] == [1, 10, 11, 10]


def test_a_difference_is_paired_by_problem_and_averaged_over_seeds() -> None:
    """By hand, the differences by problem are 100, 0, 50 and -50: mean 25, standard deviation 64.55, standard error
    32.27.
    """
    mean, half = difference(["1010", "1000"], ["0000", "0001"])
    assert mean == pytest.approx(25)
    assert half == pytest.approx(1.96 * math.sqrt((75**2 + 25**2 + 25**2 + 75**2) / 3) / 2)
    assert difference(["1111"], ["0000"]) == (100, 0)


def test_the_table_says_what_is_not_resolved() -> None:
    """A model's row has its differences from the start and from SFT continued; lines of other sizes are left out."""
    start = line("sft/0", correct="1" * 300 + "0" * 700)
    better = line("space/0/1e-5", correct="1" * 400 + "0" * 600, gsm8k_nll=1.25, identical_pairs=0.5)
    same = line("spin/0/1e-5", correct="1" * 299 + "01" + "0" * 699, compute={"total": 2e6})
    more = line("sft-continued/0/1e-5", correct="1" * 350 + "0" * 650)
    table = table_of([better, start, more, same, line("iris/0/1e-5", size=FULL)], PILOT)
    rows = {row.split(" | ")[0].strip("| *"): row.split(" | ") for row in table.splitlines() if row.startswith("| ")}
    assert set(rows) == {"model", "---", "sft", "spin", "space", "sft-continued"}
    # 100 of 1,000 problems differ by one, which gives a standard error of 100 * sqrt(0.1 * 0.9 / 999) = 0.949 points.
    assert rows["space"][5] == "+10.0 ± 1.9"
    assert rows["space"][6] == "+5.0 ± 1.4"
    assert rows["spin"][5].startswith("+0.0 ± 0.3")
    assert "(" in rows["spin"][5]
    assert rows["sft"][5] == ""
    assert rows["sft-continued"][5:7] == ["+5.0 ± 1.4", ""]
    assert [rows["space"][column] for column in (8, 9, 10, 12)] == ["20.0", "50.0", "1.250", "50.0"]
    assert rows["spin"][13].strip(" |") == "2.00"
    assert "pilot" in table_of([], PILOT)


@pytest.mark.slow
def test_a_tiny_experiment_plays(tmp_path: Path, llama_folder: Path) -> None:
    """With a tiny Llama, every part has its last line, and SFT continued has SPIN's compute within half a step."""
    data, results = tmp_path / "data", tmp_path / "results.jsonl"
    (data / "svamp").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    for name, word, count in (("train.csv", "boats", 40), ("test.csv", "birds", 8)):
        words = [f"{word}{chr(97 + n // 10)}{chr(97 + n % 10)}" for n in range(count)]
        rows = [f"Ann has number0 {one} . How many ?,3,+ number0 1.0,4,Ann has number0 {one} ." for one in words]
        text = "\n".join(["Question,Numbers,Equation,Answer,Body", *rows])
        (data / "svamp" / name).write_text(text, encoding="utf-8")
    options = argparse.Namespace(data=data, results=results, work=tmp_path / "work", model=llama_folder)
    for name in ("sft/0", "spin/0/1e-5", "sft-continued/0/1e-5", "sft-dft/0/1e-5", "base", "sft/0"):
        real_model.play(Part.parse(name), SIZES["tiny"], options)
    lines = [json.loads(text) for text in results.read_text(encoding="utf-8").splitlines()]
    last = {found["part"]: found for found in lines if found["last"]}
    assert [found["part"] for found in lines if found["last"]] == list(last), (
        "a start that is trained again has one line"
    )
    assert len(last) == 5
    assert all(len(found["test"]["correct"]) == 8 and found["size"] == "tiny" for found in lines)
    assert 3 * last["spin/0/1e-5"]["compute"]["trained"] < last["spin/0/1e-5"]["compute"]["total"]
    for arm in ("sft-continued", "sft-dft"):
        more = last[f"{arm}/0/1e-5"]
        per_step = more["compute"]["total"] / more["steps"]
        assert abs(more["compute"]["total"] - last["spin/0/1e-5"]["compute"]["total"]) <= per_step / 2
    # After only one step of 1e-5, the development NLL is that of the start, whatever the training loss.
    nll = last["sft/0"]["development"]["nll"]
    for arm in ("sft-continued", "sft-dft"):
        assert min(last[f"{arm}/0/1e-5"]["development_losses"].values()) == pytest.approx(nll, rel=0.02)
