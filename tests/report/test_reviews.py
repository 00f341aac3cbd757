"""The report shows people's votes: win rates, numbers of results with reasons, and what they mean for the run."""

import dataclasses
from pathlib import Path

from made_up import record, sample, stage, write_run
from messages import names
from reviewed import entry_of
from spin_trl.report.record import RunRecord
from spin_trl.report.reviews import review_note, reviews, reviews_in_words
from spin_trl.report.write import write_report
from spin_trl.run.directory import RunDirectory


def run(*entries: dict) -> RunRecord:
    stages = [stage("start", range(20)), stage("iteration-0", range(60)), stage("iteration-1", range(70))]
    return dataclasses.replace(record(*stages, best="iteration-1"), journal=list(entries))


def test_without_votes_there_is_no_table() -> None:
    assert reviews(run()) is None
    assert reviews_in_words(run()) == []
    assert run().reviews == {}


def test_a_row_for_each_comparison_with_results_and_reasons() -> None:
    first = entry_of("iteration-1", ["won", "won", "won", "lost", "both_good"])
    first["votes"][3]["reasons"] = ["wrong", "rude"]
    found = reviews(
        run(entry_of("iteration-0", ["lost"], "real"), first, entry_of("iteration-1", ["won"], reviewer="Bob"))
    )
    assert found is not None
    assert [row.label for row in found.rows] == [
        "iteration\u00a00 against the real response",
        "iteration\u00a01 against the previous model",
    ]
    cells = found.rows[1].cells
    assert cells[0].text == "70.0\u00a0%"
    assert [cell.text for cell in cells[1:]] == ["5", "4", "1", "1", "0", "2"]
    assert cells[3].detail == "rude 1, wrong 1"
    assert names(cells[-1].detail, "1.00")
    assert found.rows[1].is_best
    assert len(found.headings) == len(cells) + 1


def test_what_people_find_worse_is_said_with_what_follows() -> None:
    worse = entry_of("iteration-1", ["lost"] * 30)
    assert [names(text, "Iteration 1", "0.0 %", "30 pairs") for text in reviews_in_words(run(worse))] == [True]
    strict = dataclasses.replace(run(worse), settings={"review_min_win_rate": 0.1})
    assert reviews_in_words(strict) == []  # the interval ends at 0.114
    gate = {"phase": "gate", "stage": "iteration-1", "time": 2e9, "decision": "continued", "rejected": True,
            "best": "iteration-0", "opponent": "iteration-1", "lr_scale": 1.0, "reason": None}  # fmt: skip
    (text,) = reviews_in_words(run(worse, gate))
    assert len(text) > len(reviews_in_words(run(worse))[0])
    assert run(worse, gate).rejected == {"iteration-1"}


def test_report_and_card_have_the_table(tmp_path: Path) -> None:
    entries = [
        {"phase": "evaluate", "stage": name, "time": 1.8e9, "seconds": 2.0}
        for name in ("start", "iteration-0", "iteration-1")
    ]
    voted = run(*entries, entry_of("iteration-1", ["won"] * 3 + ["lost"]))
    directory = RunDirectory(write_run(tmp_path / "run", voted, {"start": [sample(0)]}))
    page = write_report(directory).read_text(encoding="utf-8")
    assert "Human review" in page
    assert names(page, "iteration\u00a01", "75.0\u00a0%")


def test_neither_names_nor_notes_of_reviewers_are_shown(tmp_path: Path) -> None:
    entry = entry_of("iteration-1", ["won"] * 3, reviewer="Annabelle")
    entry["votes"][0]["note"] = "private"
    directory = RunDirectory(write_run(tmp_path / "run", run(entry), {"start": [sample(0)]}))
    page = write_report(directory).read_text(encoding="utf-8")
    assert "Human review" in page
    assert not names(page, "Annabelle")
    assert not names(page, "private")


def test_the_note_says_who_compared_the_answers() -> None:
    """A judge's votes are not passed off as people's."""
    people = entry_of("iteration-1", ["won"])
    judge = entry_of("iteration-1", ["won"], reviewer="tiny") | {"taken_by": "judge"}
    notes = [review_note(run(*entries)) or "" for entries in ((people,), (judge,), (people, judge))]
    assert ["People" in note for note in notes] == [True, False, True]
    assert ["judge" in note for note in notes] == [False, True, True]
    assert review_note(run()) is None
