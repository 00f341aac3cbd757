"""MBPP's published file becomes prompts that show one assertion, and rows for the scorer `python_tests`."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from messages import logged, refused
from spin_trl.data.load import load_rows
from spin_trl.data.published.mbpp import load_mbpp
from spin_trl.errors import DataError
from spin_trl.evaluation.assertions import read_steps

NAME = "spin_trl.data.published.mbpp:load_mbpp"
MBPP = Path(__file__).parents[4] / "shared" / "data" / "mbpp" / "mbpp.jsonl"


def task(number: int, text: str = "", **others: Any) -> dict[str, Any]:
    tests = [f"assert f{number}({n}) == {n + 1}" for n in range(3)]
    return {
        "text": text or f"Write a function that is number {number}.", "code": f"def f{number}(n):\r\n    return n + 1\r\n",
        "task_id": number, "test_setup_code": "", "test_list": tests, "challenge_test_list": [], **others,
    }  # fmt: skip


def write(file: Path, tasks: Sequence[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(one) + "\n" for one in tasks), encoding="utf-8")
    return str(file)


def test_a_row_has_the_text_and_the_first_assertion(tmp_path: Path) -> None:
    """It also has line feeds, all assertions, and their set-up code; the scorer knows which assertion is shown."""
    setup = "class Node:\r\n    pass"
    path = write(tmp_path / "mbpp.jsonl", [task(10), task(601, test_setup_code=setup), task(511), task(11), task(974)])
    (row, last) = load_rows(NAME, path, "train")
    prompt = "Write a function that is number 601.\nYour code should pass this test:\nassert f601(0) == 1"
    assert row == {
        "messages": [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": "def f601(n):\n    return n + 1"},
        ],
        "test_list": [f"assert f601({n}) == {n + 1}" for n in range(3)],
        "test_setup_code": "class Node:\n    pass",
    }
    assert last["test_list"][0] == "assert f974(0) == 1"
    assert [step.is_shown for step in read_steps(row["test_list"], prompt)] == [True, False, False]
    for split, number in (("validation", 511), ("test", 11)):
        (other,) = load_rows(NAME, str(tmp_path), split)
        assert other["test_list"][0] == f"assert f{number}(0) == 1"


def test_a_text_of_the_test_split_is_not_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Case and white space are ignored; the number of tasks left out is logged."""
    path = write(tmp_path / "mbpp.jsonl", [task(11, "Add  one."), task(601, "add one."), task(602)])
    with caplog.at_level(logging.WARNING):
        (row,) = load_mbpp("train", path)
    assert row["test_list"][0] == "assert f602(0) == 1"
    logged(caplog, path, "1 task")
    assert len(load_mbpp("test", path)) == 1


@pytest.mark.parametrize("wrong", [{"code": None}, {"text": 3}, {"test_list": []}, {"task_id": "601"}])
def test_a_task_that_lacks_something_is_named(wrong: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "mbpp.jsonl", [task(601), {**task(602), **wrong}])
    with refused(DataError, path, "row", *(f"`{name}`" for name in wrong)):
        load_mbpp("train", path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "mbpp.jsonl", [task(601)])
    with refused(DataError, "`dataset_config`", "mbpp.jsonl"):
        load_rows(NAME)
    with refused(DataError, tmp_path / "nothing.jsonl"):
        load_mbpp("train", str(tmp_path / "nothing.jsonl"))
    with refused(DataError, "'prompt'", "'validation'"):
        load_mbpp("prompt", path)
    with refused(DataError, path, "'test'", "11", "510"):
        load_mbpp("test", path)


@pytest.mark.skipif(not MBPP.is_file(), reason="MBPP's file is not at ../shared/data/mbpp")
def test_the_counts_of_the_published_file() -> None:
    """Of 374 training tasks, 3 share their text with the test split; rows 367 and 927 have set-up code."""
    rows = {split: load_mbpp(split, str(MBPP)) for split in ("train", "validation", "test")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 371, "validation": 90, "test": 500}
    every = [row for found in rows.values() for row in found]
    assert not any("\r" in row["messages"][1]["content"] + "".join(row["test_list"]) for row in every)
    assert sum(bool(row["test_setup_code"]) for row in every) == 2
    shown = [[step.is_shown for step in read_steps(row["test_list"], row["messages"][0]["content"])] for row in every]
    assert all(one[0] for one in shown)
