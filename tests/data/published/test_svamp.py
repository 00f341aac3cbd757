"""SVAMP's published files become prompts and equations; problems that differ only in their numbers stay together."""

import csv
import json
import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest

from messages import logged, refused
from spin_trl.data.load import load_rows
from spin_trl.data.published.svamp import (
    SVAMP_SAMPLE,
    SYSTEM,
    Problem,
    infix,
    load_svamp,
    load_svamp_sample,
    read_problems,
    split_by_template,
    without_point_zero,
)
from spin_trl.errors import DataError
from spin_trl.evaluation.scorers.equation import equation_value

NAME = "spin_trl.data.published.svamp:load_svamp"
HEADER = ["Question", "Numbers", "Equation", "Answer", "group_nums", "Body", "Ques"]
SVAMP = Path(__file__).parents[4] / "shared" / "data" / "svamp"
as_published = pytest.mark.skipif(not SVAMP.is_dir(), reason="SVAMP's files are not at ../shared/data/svamp")


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
        ("/ number0 - number1 4.0", "7 / (4 - 4)", None),
    ],
)
def test_equations_get_the_brackets_that_they_need(prefix: str, expected: str, value: Fraction | None) -> None:
    """The written equation has the value that the scorer computes for it."""
    found = infix(prefix, ["7", "4", "2"])
    assert (found.text, found.value) == (expected, value)
    assert equation_value(found.text) == value


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "+ number0",
        "number0 number1",
        "^ number0 number1",
        "+ number0 x",
        "+ number0 number2",
    ],
)
def test_an_equation_that_is_no_whole_expression_is_an_error(prefix: str) -> None:
    with pytest.raises(ValueError):
        infix(prefix, ["7", "4"])


def test_whole_numbers_are_written_without_a_decimal_point() -> None:
    assert [without_point_zero(number) for number in ("56.0", "18", "0.25", "1.05")] == ["56", "18", "0.25", "1.05"]


Row = tuple[str, str, str, str]


def write(file: Path, rows: Sequence[Row]) -> Path:
    """Write problems in the published format: the first sentence is the body."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(HEADER)
        for question, numbers, equation, answer in rows:
            body, _, asked = question.partition(" . ")
            writer.writerow([question, numbers, equation, answer, "[1, 2]", body + " .", asked])
    return file


JARS: Row = ("Ann has number0 jars of number1 . How many ?", "56.0 9.0", "* number0 number1", "504.0")


def test_problems_whose_equation_gives_another_answer_are_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A rounded answer is accepted, but only to its own precision: 40 / 7 is 5.714, not 5. The number of dropped
    problems is logged.
    """
    shared = "Share number0 by number1 . How much ?"
    rows = [
        JARS,
        (shared, "40.0 7.0", "/ number0 number1", "5.714"),
        (shared, "40.0 7.0", "/ number0 number1", "5.0"),
        (shared, "40.0 0.0", "/ number0 number1", "0.0"),
    ]
    found = read_problems(write(tmp_path / "train.csv", rows))
    assert found.dropped == 2
    assert [(one.question, one.equation) for one in found.problems] == [
        ("Ann has 56 jars of 9 . How many ?", "56 * 9"),
        ("Share 40 by 7 . How much ?", "40 / 7"),
    ]
    assert (found.problems[0].template, found.problems[0].body) == (
        "ann has number0 jars of number1 how many",
        "ann has number0 jars of number1",
    )
    assert found.problems[0].messages() == [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "Ann has 56 jars of 9 . How many ?"},
        {"role": "assistant", "content": "56 * 9"},
    ]
    with caplog.at_level(logging.WARNING):
        load_svamp("train", str(tmp_path))
    logged(caplog, tmp_path / "train.csv", "2 problems", "4")


@pytest.mark.parametrize(
    "row",
    [
        ("Ann has number0 .", "7", "+ number0 number1", "7"),
        ("Ann has number1 .", "7", "+ number0 1.0", "8"),
        ("Ann has number0 .", "seven", "+ number0 1.0", "8"),
        ("Ann has number0 .", "7", "+ number0 1.0", "eight"),
        ("Ann has number0 .", "7", "+ number0", "8"),
    ],
    ids=["number of the equation", "number of the text", "number", "answer", "equation"],
)
def test_a_row_that_can_not_be_read_is_named(row: Row, tmp_path: Path) -> None:
    file = write(tmp_path / "train.csv", [JARS, row])
    with refused(DataError, file, "row 1"):
        read_problems(file)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("Question,Answer\na,b\n", encoding="utf-8")
    with refused(DataError, tmp_path / "train.csv", "'Numbers'"):
        load_svamp("train", str(tmp_path))


def test_problems_that_differ_only_in_numbers_and_punctuation_stay_on_one_side(tmp_path: Path) -> None:
    """There are seven templates of ten problems each, so at least 15 problems means two templates."""
    problems = [Problem(f"{row % 7} {row}", "1", f"template {row % 7}", "") for row in range(70)]
    training, development = split_by_template(problems, 15)
    assert (len(training), len(development)) == (50, 20)
    assert not {one.template for one in training} & {one.template for one in development}
    assert split_by_template(problems, 15) == (training, development)
    variants = [JARS, ("ann has number0 jars , of number1 . How many", "2 3", "* number0 number1", "6")]
    found = read_problems(write(tmp_path / "train.csv", variants)).problems
    assert found[0].template == found[1].template


def rows_of(count: int) -> list[Row]:
    """Return problems of `count` templates, two of each."""
    words = [f"thing{chr(97 + number)}" for number in range(count)]
    return [
        (f"Ann has number0 {word} . How many ?", f"{n}.0", "+ number0 1.0", f"{n + 1}")
        for word in words
        for n in (3, 4)
    ]


def test_a_recipe_names_the_folder_and_the_split(tmp_path: Path) -> None:
    """Of 20 problems, 7 % is one, and its template has two. The authors call the test file dev.csv."""
    training = rows_of(10)
    write(tmp_path / "mine" / "train.csv", training)
    other = ("Bob buys number0 boats . How many ?", "5", "number0", "5")
    write(tmp_path / "mine" / "dev.csv", [other, training[0]])

    def questions(split: str, folder: str = str(tmp_path / "mine")) -> list[str]:
        return [row["messages"][1]["content"] for row in load_rows(NAME, folder, split)]

    train, development = questions("train"), questions("development")
    assert (len(train), len(development)) == (18, 2)
    assert not {text.split()[3] for text in train} & {text.split()[3] for text in development}
    assert questions("test") == ["Bob buys 5 boats . How many ?", "Ann has 3 thinga . How many ?"]
    assert questions("test_new") == ["Bob buys 5 boats . How many ?"]
    assert questions("test[:1]") == questions("test")[:1]
    (tmp_path / "clone" / "data").mkdir(parents=True)
    (tmp_path / "mine").rename(tmp_path / "clone" / "data" / "mawps-asdiv-a_svamp")
    assert questions("train", str(tmp_path / "clone")) == train


@pytest.mark.parametrize(
    ("split", "folder", "parts"),
    [
        ("train", None, ("`dataset_config`", "train.csv")),
        ("train", "nowhere", ("train.csv", "nowhere", "arkilpatel/SVAMP")),
        ("validation", ".", ("'validation'", "'development'")),
    ],
)
def test_what_is_missing_is_named(
    split: str, folder: str | None, parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with refused(DataError, *parts):
        load_rows(NAME, folder, split)


def test_the_sample_is_small_whole_and_carries_its_licence() -> None:
    """Every equation has a value, no problem is in two splits, and no configuration is needed."""
    parts = {split: load_rows(f"{NAME}_sample", None, split) for split in ("train", "development", "test")}
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 64, "development": 24, "test": 32}
    seen: set[str] = set()
    for rows in parts.values():
        turns = [row["messages"] for row in rows]
        assert all([turn["role"] for turn in one] == ["system", "user", "assistant"] for one in turns)
        assert all(equation_value(one[2]["content"]) is not None for one in turns)
        questions = {one[1]["content"] for one in turns}
        assert not questions & seen
        assert len(questions) == len(rows)
        seen |= questions
    assert "MIT License" in (SVAMP_SAMPLE / "LICENSE").read_text(encoding="utf-8")
    assert len(load_svamp_sample("test[:8]")) == 8
    with refused(DataError, "'validation'"):
        load_svamp_sample("validation")


@as_published
def test_the_counts_of_the_published_files() -> None:
    """Of 3,138 problems with 2,468 texts, 12 are dropped; no test text is in train, and 48 bodies are."""
    with (SVAMP / "train.csv").open(encoding="utf-8", newline="") as lines:
        raw = list(csv.DictReader(lines))
    assert len(raw) == 3138
    assert len({" ".join(re.findall(r"\w+", row["Question"].lower())) for row in raw}) == 2468
    equations = defaultdict(set)
    for row in raw:
        equations[" ".join(row["Question"].lower().split())].add(row["Equation"])
    assert sum(len(several) > 1 for several in equations.values()) == 41
    train, test = (read_problems(SVAMP / name) for name in ("train.csv", "test.csv"))
    assert (len(train.problems), train.dropped, len(test.problems), test.dropped) == (3126, 12, 1000, 0)
    templates, bodies = ({getattr(one, name) for one in train.problems} for name in ("template", "body"))
    assert not any(one.template in templates for one in test.problems)
    assert sum(one.body in bodies for one in test.problems) == 48
    sizes = {split: len(load_svamp(split, str(SVAMP))) for split in ("train", "development", "test", "test_new")}
    assert sizes == {"train": 2905, "development": 221, "test": 1000, "test_new": 952}
    assert all(equation_value(one.equation) is not None for one in (*train.problems, *test.problems))
    assert test.problems[0].equation == "18 - 10"


@as_published
def test_the_sample_is_of_the_challenge_set() -> None:
    """Its problems are the authors' own, with the licence next to them, and no body is in two parts."""
    by_question = {one.question: one for one in read_problems(SVAMP / "test.csv").problems}
    bodies: set[str] = set()
    for split in ("train", "development", "test"):
        lines = (SVAMP_SAMPLE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        problems = [by_question[json.loads(line)["messages"][1]["content"]] for line in lines]
        assert [one.messages() for one in problems] == [json.loads(line)["messages"] for line in lines]
        assert not {one.body for one in problems} & bodies
        bodies |= {one.body for one in problems}
