"""`spin-trl review` records votes from files or from a browser on this machine, and prints the win rates, without torch."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from messages import names
from refusals import refusal
from reviewed import answered_run, choices_for, votes_file, with_page
from spin_trl.cli import main
from spin_trl.run.directory import RunDirectory
from spin_trl.run.journal import Journal
from spin_trl.run.reviews import votes_on


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return answered_run(tmp_path / "run", use_cpu=True, bf16=False)


def recorded(directory: RunDirectory) -> list[tuple[str, str]]:
    return [(vote.reviewer, vote.result) for vote in votes_on(Journal(directory.journal).entries(), "iteration-1")]


def test_files_are_recorded_and_win_rates_printed(
    directory: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assignment = with_page(directory)
    files = [
        votes_file(tmp_path / f"{name}.json", assignment, choices_for(assignment, won, 20 - won), name)
        for name, won in (("Ann", 15), ("Bob", 5))
    ]
    assert main(["review", str(directory.path), *map(str, files)]) == 0
    said = capsys.readouterr().out
    assert names(said, "20 votes", "Ann", "Bob", "50.0 %", "20 pairs", "2 reviewers", "alpha")
    assert len(recorded(directory)) == 40
    assert main(["review", str(directory.path), "--show"]) == 0
    assert names(capsys.readouterr().out, "50.0 %", "review.html")


def test_a_bad_file_is_refused_and_nothing_of_the_others_is_recorded(
    directory: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assignment = with_page(directory)
    good = votes_file(tmp_path / "good.json", assignment, choices_for(assignment, 3, 0))
    bad = votes_file(tmp_path / "bad.json", assignment, {"unknown": "left"}, "Bob")
    assert names(refusal(capsys, "review", str(directory.path), str(good), str(bad)), "bad.json", "unknown")
    assert recorded(directory) == []


@pytest.mark.parametrize("option", [["--iteration", "0"], ["--show"], ["--port", "0"]])
def test_options_that_files_leave_no_use_for_are_refused(
    directory: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    """`--show` must not record, and votes on iteration 1 are not on iteration 0 because an option says so."""
    assignment = with_page(directory)
    path = votes_file(tmp_path / "votes.json", assignment, choices_for(assignment, 3, 0))
    assert names(refusal(capsys, "review", str(directory.path), str(path), *option), option[0], "files")
    assert recorded(directory) == []


def test_what_has_no_answers_is_refused(
    directory: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert names(refusal(capsys, "review", str(directory.path), "--iteration", "7"), "--iteration", 7, "0, 1")
    assert names(refusal(capsys, "review", str(tmp_path / "nowhere")), "nowhere")
    directory.journal.write_text('{"phase": "prepare", "stage": "data", "dataset": "x"}\n', encoding="utf-8")
    assert names(refusal(capsys, "review", str(directory.path)), directory.path)


def test_a_page_that_is_not_the_runs_is_not_served(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with_page(directory)
    directory.review_page("iteration-1").write_text("<html>", encoding="utf-8")
    assert names(refusal(capsys, "review", str(directory.path)), "review.html")


def test_a_run_that_was_not_asked_for_a_review_gets_a_page(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has the settings' defaults: 40 prompts, without those whose answers are the same, against the previous model."""
    assert main(["review", str(directory.path), "--show", "--iteration", "0"]) == 0
    assert names(capsys.readouterr().out, "iteration-0")
    found = json.loads(directory.assignment("iteration-0").read_text(encoding="utf-8"))
    assert len(found["pairs"]) + found["identical"]["previous"] == 40


def post(url: str, path: str, body: dict, session: str = "") -> dict:
    """Send a request as the page's script does."""
    root = url.partition("/#")[0]
    headers = {"Content-Type": "application/json", "Origin": root, "Authorization": f"Bearer {session}"}
    request = urllib.request.Request(root + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: dict = json.loads(answer.read())
    return found


def test_votes_in_a_browser_are_recorded_at_once_without_torch(directory: RunDirectory) -> None:
    """The command is interrupted as by Ctrl-C, prints the win rates and exits with 0."""
    assignment = with_page(directory)
    code = (
        "import sys, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from spin_trl.cli import main; code = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "review", str(directory.path)],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+/#\S+", "".join(lines))
        session = post(url, "/session", {"token": url.partition("#")[2]})["session"]
        pair = assignment.pairs[0]
        for choice in ("both_bad", pair.side):
            vote = {"pair": pair.id, "choice": choice, "reasons": ["rude"], "note": "why"}
            post(url, "/votes", {"reviewer": "Ann", "vote": vote}, session)
        assert recorded(directory) == [("Ann", "won")]
        assert post(url, "/votes-of", {"reviewer": "Ann"}, session)["votes"] == [vote]
        entry = Journal(directory.journal).entries()[-1]
        assert (entry["taken_by"], entry["page"]) == ("server", assignment.page)
        process.send_signal(2)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert names(rest, "100.0 %", "1 pair")
