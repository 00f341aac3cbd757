"""A stored page gives back what it shows, as long as it is the page that its assignment belongs to."""

from dataclasses import replace
from pathlib import Path

from messages import refused
from reviewed import answered_run, with_page
from spin_trl.errors import RunDirectoryError
from spin_trl.report.review.stored import digest_of, stored_data


def test_a_page_gives_back_what_it_shows(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    assignment = with_page(directory)
    data = stored_data(directory.review_page("iteration-1"), assignment)
    assert data is not None
    assert [pair["id"] for pair in data["pairs"]] == [pair.id for pair in assignment.pairs]
    assert digest_of(data) == data["page"] == assignment.page


def test_a_page_that_is_missing_changed_or_of_another_assignment_gives_nothing(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    assignment = with_page(directory)
    path = directory.review_page("iteration-1")
    assert stored_data(path, replace(assignment, page="0" * 16)) is None
    path.write_text(path.read_text(encoding="utf-8").replace(", longest", ", changed"), encoding="utf-8")
    assert stored_data(path, assignment) is None
    path.write_text("<html>", encoding="utf-8")
    assert stored_data(path, assignment) is None
    path.unlink()
    assert stored_data(path, assignment) is None
    path.mkdir()
    with refused(RunDirectoryError, path):
        stored_data(path, assignment)
