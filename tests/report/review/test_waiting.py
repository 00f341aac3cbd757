"""A report says that the run waits for votes, as long as it does."""

import json
from pathlib import Path

import pytest

from messages import names
from reviewed import answered_run, entry_of, with_page
from spin_trl.report.record import read_record
from spin_trl.report.review.waiting import waiting_in_words
from spin_trl.report.write import gather
from spin_trl.run.directory import RunDirectory

WAITING = {"human_review": ["every 1"], "review_gate": "wait"}


def said(directory: RunDirectory) -> list[str]:
    return waiting_in_words(directory, read_record(directory))


def append(directory: RunDirectory, entry: dict) -> None:
    with directory.journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def test_a_run_that_waits_says_so(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run", **WAITING)
    with_page(directory)
    assert [names(text, "Iteration 1", "`review_gate: wait`") for text in said(directory)] == [True]
    assert said(directory)[0] in gather(directory)["remarks"]


@pytest.mark.parametrize("settings", [{}, {"human_review": ["last"], "review_gate": "warn"}, {"review_gate": "wait"}])
def test_a_run_that_need_not_wait_says_nothing(tmp_path: Path, settings: dict) -> None:
    directory = answered_run(tmp_path / "run", **settings)
    with_page(directory)
    assert said(directory) == []


def test_with_votes_or_without_a_page_or_after_the_next_iteration_began_nothing_waits(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run", **WAITING)
    assert said(directory) == []
    with_page(directory, iteration=0)
    assert said(directory) == []
    with_page(directory)
    assert len(said(directory)) == 1
    journal = directory.journal.read_text(encoding="utf-8")
    for entry in (entry_of("iteration-1", ["won"]), {"phase": "generate", "stage": "iteration-2", "time": 2e9}):
        append(directory, entry)
        assert said(directory) == []
        directory.journal.write_text(journal, encoding="utf-8")
