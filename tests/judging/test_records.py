"""The file of replies has what was asked and said, counts what it cost, and notices damage."""

import json
from pathlib import Path
from typing import Any

from messages import refused
from spin_trl.errors import RunDirectoryError
from spin_trl.judging.prompts import PROMPT_VERSION, to_compare, to_score
from spin_trl.judging.records import JudgedWith, JudgeRecords, Spent
from spin_trl.judging.rubric import read_judge_rubric

FILE = Path("judge.jsonl")
RUBRIC = read_judge_rubric()
WITH = JudgedWith("m", {"temperature": 0, "max_tokens": 9}, RUBRIC.digest, "http://a/v1")
QUESTION = to_score(RUBRIC, "p", "a")
KEY = WITH.key(QUESTION)


def add(records: JudgeRecords, verdict: dict[str, Any] | None, reply: str | None = "x") -> None:
    records.add(KEY, WITH, QUESTION, reply=reply, verdict=verdict, tokens=5, why=None if verdict else "w")


def test_a_key_is_that_of_model_settings_rubric_and_texts_in_their_order() -> None:
    others = [
        JudgedWith("n", WITH.sampling, WITH.rubric, WITH.url).key(QUESTION),
        JudgedWith("m", {"temperature": 1}, WITH.rubric, WITH.url).key(QUESTION),
        JudgedWith("m", WITH.sampling, "r", WITH.url).key(QUESTION),
        WITH.key(to_score(RUBRIC, "pa", "")),
        WITH.key(to_score(RUBRIC, "a", "p")),
        WITH.key(to_compare(RUBRIC, "p", "a", "b")),
        WITH.key(to_compare(RUBRIC, "p", "b", "a")),
    ]
    assert len({KEY, *others}) == 8
    assert JudgedWith("m", WITH.sampling, WITH.rubric, "http://b").key(QUESTION) == KEY


def test_another_process_finds_what_was_said() -> None:
    records, other = JudgeRecords(FILE), JudgeRecords(FILE)
    add(records, None)
    add(records, None, reply=None)
    add(records, {"reason": "r"})
    other.read()
    assert other.verdict(KEY) == {"reason": "r"}
    assert (other.invalid(KEY), other.spent(), other.rubrics()) == (1, Spent(3, 15), {RUBRIC.digest})
    line = json.loads(FILE.read_text(encoding="utf-8").splitlines()[2])
    assert (line["model"], line["url"], line["prompt_version"], line["reply"]) == (
        "m",
        "http://a/v1",
        PROMPT_VERSION,
        "x",
    )


def test_a_question_with_three_invalid_replies_is_given_up() -> None:
    records = JudgeRecords(FILE)
    add(records, None)
    add(records, None)
    assert not records.is_given_up(KEY)
    add(records, None)
    assert records.is_given_up(KEY)


def test_a_file_that_was_replaced_is_read_anew() -> None:
    records = JudgeRecords(FILE)
    add(records, {"reason": "r"})
    FILE.unlink()
    records.read()
    assert (records.verdict(KEY), records.spent()) == (None, Spent())


def test_damage_is_noticed() -> None:
    add(JudgeRecords(FILE), {"reason": "r"})
    FILE.write_text(FILE.read_text(encoding="utf-8").replace('"m"', '"n"'), encoding="utf-8")
    with refused(RunDirectoryError, "judge.jsonl", "1"):
        JudgeRecords(FILE).read()
    FILE.write_text('{"key": 1}\n', encoding="utf-8")
    with refused(RunDirectoryError, "`key`"):
        JudgeRecords(FILE).read()
