"""`benchmarks/real_model.py`: published problems become prompts and equations, and finished parts are skipped."""

import argparse
import csv
import json
import sys
from fractions import Fraction
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))  # last, because its files share names with the tests' folders

import real_model
from smollm2.problems import SYSTEM, Problem, infix, plain, read_problems, split
from spin_trl.evaluation.scorers.equation import equation_value

SVAMP = ROOT.parent / "shared" / "data" / "svamp"


@pytest.mark.parametrize(
    ("prefix", "expected", "value"),
    [
        ("* number0 number1", "7 * 4", 28),
        ("- number0 - number1 number2", "7 - (4 - 2)", 5),
        ("- - number0 number1 number2", "7 - 4 - 2", 1),
        ("/ number0 / number1 number2", "7 / (4 / 2)", Fraction(7, 2)),
        ("* + number0 number1 number2", "(7 + 4) * 2", 22),
        ("+ number0 * number1 number2", "7 + 4 * 2", 15),
        ("* number0 + 1.0 * number1 0.25", "7 * (1 + 4 * 0.25)", 14),
        ("+ number0 + number1 number2", "7 + 4 + 2", 13),
    ],
)
def test_equations_get_the_brackets_that_they_need(prefix: str, expected: str, value: float) -> None:
    written = infix(prefix, ["7", "4", "2"])
    assert written == expected
    assert equation_value(written) == value


def test_whole_numbers_are_written_without_a_decimal_point() -> None:
    assert [plain(number) for number in ("56.0", "18", "0.25", "1.05")] == ["56", "18", "0.25", "1.05"]


def write_problems(file: Path, rows: list[tuple[str, str, str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["Question", "Numbers", "Equation", "Answer", "Body"])
        writer.writerows((*row, row[0]) for row in rows)


def test_problems_whose_equation_gives_another_answer_are_dropped(tmp_path: Path) -> None:
    """An answer may be rounded: 40 / 7 is 5.714, but not 5."""
    write_problems(
        tmp_path / "train.csv",
        [
            ("Ann has number0 jars of number1 .", "56.0 9.0", "* number0 number1", "504.0"),
            ("Share number0 by number1 .", "40.0 7.0", "/ number0 number1", "5.714"),
            ("Share number0 by number1 .", "40.0 7.0", "/ number0 number1", "5.0"),
        ],
    )
    found = read_problems(tmp_path / "train.csv")
    assert found.dropped == 1
    assert [(one.question, one.equation) for one in found.problems] == [
        ("Ann has 56 jars of 9 .", "56 * 9"),
        ("Share 40 by 7 .", "40 / 7"),
    ]
    assert found.problems[0].messages() == [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "Ann has 56 jars of 9 ."},
        {"role": "assistant", "content": "56 * 9"},
    ]


def test_problems_that_differ_only_in_numbers_stay_on_one_side() -> None:
    problems = [Problem(f"{row % 7} {row}", "1", f"template {row % 7}", "") for row in range(70)]
    training, development = split(problems, 15)
    assert len(development) == 20  # two templates of ten
    assert not {one.template for one in training} & {one.template for one in development}
    assert len(training) == 50


@pytest.mark.skipif(not SVAMP.is_dir(), reason="SVAMP's files are not on this machine")
def test_svamp_as_published() -> None:
    """3,138 and 1,000 problems; the equation of every test problem gives its answer."""
    train, test = (read_problems(SVAMP / name) for name in ("train.csv", "test.csv"))
    assert (len(train.problems), train.dropped) == (3129, 9)
    assert (len(test.problems), test.dropped) == (1000, 0)
    training, development = split(train.problems, 220)
    assert (len(training), len(development)) == (2909, 220)
    assert test.problems[0].equation == "18 - 10"


def test_a_part_is_named_by_arm_seed_and_learning_rate() -> None:
    for name in ("base", "sft/1", "spin/0/1e-5"):
        assert real_model.Part.parse(name).name == name
    for wrong in ("sft", "spin/0", "base/0", "spin/x/1e-5", "spin/0/fast"):
        with pytest.raises(argparse.ArgumentTypeError):
            real_model.Part.parse(wrong)


def test_a_part_is_finished_once_its_last_line_is_there(tmp_path: Path) -> None:
    results, part = tmp_path / "results.jsonl", real_model.Part("spin", 0, "1e-5")
    assert not real_model.done(results, part, tiny=False)
    real_model.append(results, {"part": part.name, "last": False})
    assert not real_model.done(results, part, tiny=False)
    real_model.append(results, {"part": part.name, "last": True})
    assert real_model.done(results, part, tiny=False)
    assert not real_model.done(results, part, tiny=True)
    assert [json.loads(line)["last"] for line in results.read_text(encoding="utf-8").splitlines()] == [False, True]
