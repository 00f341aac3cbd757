"""The summary of a review gives win rates by pair and reason, what was not shown, and agreement."""

from pathlib import Path

from messages import names
from reviewed import answered_run, choices_for, votes_file, with_page
from spin_trl.evaluation.win_rates import Vote
from spin_trl.report.review.summary import summary_lines
from spin_trl.report.review.votes import read_votes, record
from spin_trl.run.journal import Journal
from spin_trl.run.reviews import votes_on


def test_win_rates_by_pair_and_reason(tmp_path: Path) -> None:
    directory = answered_run(tmp_path / "run")
    assignment = with_page(directory, count=100)
    path = votes_file(tmp_path / "votes.json", assignment, choices_for(assignment, 3, 17))
    record(directory, read_votes([path], directory)[0])
    lines = summary_lines("iteration 1", assignment, votes_on(Journal(directory.journal).entries(), "iteration-1"))
    assert names(lines[0], "iteration 1", "15.0 %", "5.2", "36.0", "20 pairs")
    assert names("\n".join(lines), "3 votes", "17 votes", "10 further prompts")


def test_few_votes_decide_nothing_and_reviewers_who_agree_have_alpha_1(tmp_path: Path) -> None:
    assignment = with_page(answered_run(tmp_path / "run"))
    votes = [
        Vote(name, str(pair), "real", result, ("wrong",))
        for name in ("Ann", "Bob")
        for pair, result in enumerate(("lost", "won"))
    ]
    lines = summary_lines("iteration 1", assignment, votes)
    assert names("\n".join(lines), "2 pairs", "wrong 2", 20, "alpha 1.00", "2 reviewers")


def test_without_votes_that_is_said(tmp_path: Path) -> None:
    assignment = with_page(answered_run(tmp_path / "run"))
    assert [names(line, "iteration 1") for line in summary_lines("iteration 1", assignment, [])] == [True]


def test_a_comparison_that_this_version_does_not_know_keeps_its_name(tmp_path: Path) -> None:
    assignment, vote = with_page(answered_run(tmp_path / "run")), Vote("Ann", "a", "another run", "won")
    assert names("\n".join(summary_lines("iteration 1", assignment, [vote], [vote])), "another run", "100.0 %")
