"""Files of votes are checked as a whole before anything is recorded; nothing is counted twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from messages import names, refused
from reviewed import answered_run, choices_for, votes_file, with_page
from spin_trl.errors import VotesError
from spin_trl.report.review.votes import (
    LARGEST_FILE,
    LONGEST_NOTE,
    as_recorded,
    checked_name,
    read_votes,
    record,
    recorded_in_words,
    reviewed_stages,
)
from spin_trl.run.directory import RunDirectory
from spin_trl.run.journal import Journal
from spin_trl.run.reviews import votes_on


def recorded(directory: RunDirectory) -> list[Any]:
    return votes_on(Journal(directory.journal).entries(), "iteration-1")


def test_votes_are_recorded_with_their_meaning(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    assignment = with_page(directory, count=100)
    choices = choices_for(assignment, won=5, lost=7, ties=3)
    choices[assignment.pairs[20].id] = "both_bad"
    choices[assignment.pairs[21].id] = "skip"
    path = votes_file(tmp_path / "votes.json", assignment, choices)
    (submission,) = read_votes([path], directory)
    record(directory, submission)
    results = [vote.result for vote in recorded(directory)]
    assert [results.count(name) for name in ("won", "lost", "both_good", "both_bad")] == [5, 7, 3, 1]
    entry = Journal(directory.journal).entries()[-1]
    assert (entry["reviewer"], entry["taken_by"], entry["page"]) == ("Ann", "file", assignment.page)
    assert names(recorded_in_words(submission), 16, "Ann", "iteration 1", "1 pair")
    sides = {vote["choice"]: 0 for vote in entry["votes"]}
    for vote in entry["votes"]:
        pair = assignment.pair(vote["pair"])
        assert pair is not None
        expected = {"both_good": "both_good", "both_bad": "both_bad", "skip": None}
        expected |= {pair.side: "won", {"left": "right", "right": "left"}[pair.side]: "lost"}
        assert vote["result"] == expected[vote["choice"]]
        sides[vote["choice"]] += 1
    assert set(sides) == {"left", "right", "both_good", "both_bad", "skip"}


def test_the_same_file_again_adds_nothing_and_a_longer_one_adds_the_rest(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    assignment = with_page(directory, count=100)
    choices = choices_for(assignment, won=10, lost=0)
    first = votes_file(tmp_path / "first.json", assignment, dict(list(choices.items())[:4]))
    whole = votes_file(tmp_path / "whole.json", assignment, choices)
    for path, new in ((first, 4), (first, 0), (whole, 6), (whole, 0)):
        (submission,) = read_votes([path], directory)
        record(directory, submission)
        assert len(submission.votes) == new
    assert len(recorded(directory)) == 10
    (submission,) = read_votes([whole], directory)
    assert names(recorded_in_words(submission), "Ann", "iteration 1", 10)
    lines = directory.journal.read_text(encoding="utf-8").count('"review"')
    assert lines == 2  # nothing new adds no entry


def test_a_pair_that_was_skipped_can_be_voted_on_later_but_not_the_other_way_round(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    assignment = with_page(directory)
    pair = assignment.pairs[0].id
    for choice, result in (("skip", []), ("both_good", ["both_good"]), ("skip", ["both_good"])):
        (submission,) = read_votes([votes_file(tmp_path / "votes.json", assignment, {pair: choice})], directory)
        record(directory, submission)
        assert [vote.result for vote in recorded(directory)] == result


def test_votes_of_two_people_count_apart(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    assignment = with_page(directory)
    ann = votes_file(tmp_path / "ann.json", assignment, choices_for(assignment, 3, 0), "Ann")
    bob = votes_file(tmp_path / "bob.json", assignment, choices_for(assignment, 0, 3), " Bob ")
    for submission in read_votes([ann, bob], directory):
        record(directory, submission)
    assert [(vote.reviewer, vote.result) for vote in recorded(directory)] == [("Ann", "won")] * 3 + [
        ("Bob", "lost")
    ] * 3


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"format": "something"}, ["votes.json"]),
        ({"version": 2}, ["votes.json", "version", 2]),
        ({"run": "0123456789abcdef"}, ["votes.json", "run"]),
        ({"page": "0123456789abcdef"}, ["votes.json", "page", "0123456789abcdef"]),
        ({"page": ["a", "list"]}, ["votes.json", "page"]),
        ({"reviewer": "  "}, ["votes.json", "reviewer"]),
        ({"reviewer": 7}, ["votes.json", "reviewer"]),
        ({"reviewer": "x" * 81}, ["votes.json", "reviewer", 80]),
        ({"votes": "many"}, ["votes.json", "votes"]),
        ({"votes": ["left"]}, ["votes.json", "left"]),
        ({"votes": [{"pair": "unknown", "choice": "left"}]}, ["votes.json", "unknown"]),
        ({"votes": [{"choice": "left"}]}, ["votes.json", "pair"]),
    ],
)
def test_what_does_not_belong_to_the_page_is_refused(
    tmp_path: Path, changes: dict[str, Any], parts: list[object]
) -> None:
    directory = answered_run(tmp_path / "run")
    assignment = with_page(directory)
    path = votes_file(tmp_path / "votes.json", assignment, choices_for(assignment, 3, 3), **changes)
    with refused(VotesError, *parts):
        read_votes([path], directory)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"choice": "lefty"}, ["lefty", "left"]),
        ({"choice": None}, ["choice"]),
        ({"reasons": ["dull"]}, ["dull", "wrong"]),
        ({"reasons": "wrong"}, ["reasons"]),
        ({"reasons": [["wrong"]]}, ["reasons"]),
        ({"note": "x" * (LONGEST_NOTE + 1)}, ["2,000"]),
        ({"note": 3}, ["note"]),
    ],
)
def test_a_vote_that_the_page_can_not_have_saved_is_refused(
    tmp_path: Path, changes: dict[str, Any], parts: list[object]
) -> None:
    assignment = with_page(answered_run(tmp_path / "run"))
    vote = {"pair": assignment.pairs[0].id, "choice": "left", "reasons": [], "note": "", **changes}
    with refused(VotesError, assignment.pairs[0].id, *parts):
        as_recorded(vote, assignment)


def test_two_votes_on_a_pair_and_a_changed_vote_are_refused_with_all_files(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    assignment = with_page(directory)
    pair = assignment.pairs[0].id
    good = votes_file(tmp_path / "good.json", assignment, choices_for(assignment, 5, 0), "Bob")
    twice = votes_file(
        tmp_path / "twice.json",
        assignment,
        {},
        votes=[{"pair": pair, "choice": choice} for choice in ("left", "left")],
    )
    with refused(VotesError, "twice.json", pair):
        read_votes([good, twice], directory)
    left = votes_file(tmp_path / "left.json", assignment, {pair: "left"})
    right = votes_file(tmp_path / "right.json", assignment, {pair: "right"})
    with refused(VotesError, "right.json", pair, "Ann"):
        read_votes([left, right], directory)
    assert recorded(directory) == []
    record(directory, read_votes([left], directory)[0])
    with refused(VotesError, "right.json", pair, "left", "right"):
        read_votes([good, right], directory)
    assert len(recorded(directory)) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"7"])
def test_what_is_no_file_of_votes_is_refused(tmp_path: Path, content: bytes) -> None:
    directory = answered_run(tmp_path / "run")
    (tmp_path / "votes.json").write_bytes(content)
    with refused(VotesError, "votes.json"):
        read_votes([tmp_path / "votes.json"], directory)


def test_a_missing_file_a_folder_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    for path in (tmp_path / "missing.json", tmp_path, huge):
        with refused(VotesError, path):
            read_votes([path], directory)


def test_notes_and_reasons_are_kept(tmp_path: Path) -> None:
    assignment = with_page(answered_run(tmp_path / "run"))
    vote = {
        "pair": assignment.pairs[0].id,
        "choice": "skip",
        "reasons": ["wrong", "wrong", "rude"],
        "note": "שלום\n<b>",
    }
    found = as_recorded(vote, assignment)
    assert (found["reasons"], found["note"], found["result"]) == (["wrong", "rude"], "שלום\n<b>", None)
    assert json.loads(json.dumps(found)) == found


def test_the_stages_with_a_page_are_in_order(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    assert reviewed_stages(directory) == {}
    newest, first = with_page(directory), with_page(directory, iteration=0)
    assert list(reviewed_stages(directory).items()) == [("iteration-0", first), ("iteration-1", newest)]


def test_a_name_is_stripped() -> None:
    assert checked_name("  Ann Öz ") == "Ann Öz"
    with refused(VotesError, "reviewer"):
        checked_name("a\nb")
