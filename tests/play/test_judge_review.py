"""The judge compares the pairs of a review page, blindly and in both orders; its votes are shown and decide nothing."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tiny
from completion_server import serving
from judge_server import Judgement, JudgeServer, always_left, texts_of
from messages import names, refused
from reviewed import choices_for, votes_file
from runs import build, entry, journal
from spin_trl import SelfPlayConfig
from spin_trl.cli import main
from spin_trl.errors import RecipeError, visible
from spin_trl.play.judge_review import let_judge_review
from spin_trl.play.judged import questions_of
from spin_trl.play.loop import SelfPlay
from spin_trl.report.record import read_record
from spin_trl.report.review.assignment import Assignment, read_assignment
from spin_trl.report.review.votes import read_votes, record
from spin_trl.report.reviews import reviews
from spin_trl.run.directory import RunDirectory
from spin_trl.run.reviews import review_figures, votes_on

HELD_OUT = 12


def by_text(prompt: str, answers: Sequence[str]) -> Any:
    """Prefer the answer that comes first in the alphabet, whatever its place."""
    return {"reason": "it comes first", "better": "first" if answers[0] < answers[1] else "second"}


def session(model: Path, server: JudgeServer, run_dir: str | Path = "run", **settings: Any) -> SelfPlay:
    settings = {
        "train_dataset": tiny.sft(2 * HELD_OUT),
        "held_out_fraction": 0.5,
        "num_iterations": 1,
        "human_review": "every 1",
        "judge_reviews": True,
        "judge_url": server.v1,
        "judge_model": "wise",
        **settings,
    }
    return build(model, run_dir, **settings)


def assignment_of(run_dir: str | Path) -> Assignment:
    found = read_assignment(RunDirectory(run_dir).assignment("iteration-0"))
    assert found is not None
    return found


def reviewed(model: Path, judgement: Judgement, run_dir: str | Path = "run", **settings: Any) -> JudgeServer:
    """Play a run whose judge judges like this."""
    with serving(JudgeServer(judgement=judgement)) as server:
        session(model, server, run_dir, **settings).run()
    return server


@pytest.fixture(scope="module")
def judged(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose judge always prefers the same text."""
    folder = tmp_path_factory.mktemp("a run") / "run"
    server = reviewed(llama_folder, by_text, folder)
    assert len(server.bodies) == 2 * len(assignment_of(folder).pairs)
    return folder


def test_every_pair_is_compared_in_both_orders_and_recorded_under_the_judges_name(judged: Path) -> None:
    assignment, directory = assignment_of(judged), RunDirectory(judged)
    found = entry("review", "iteration-0", judged)
    assert (found["reviewer"], found["taken_by"], found["page"]) == ("wise", "judge", assignment.page)
    assert found["position"] == {"pairs": len(assignment.pairs), "by_position": 0}
    answers = {
        stage: {
            row["key"]: visible(row["generated"].strip())
            for row in map(json.loads, directory.samples(stage).read_text(encoding="utf-8").splitlines())
        }
        for stage in ("start", "iteration-0")
    }
    for pair, vote in zip(assignment.pairs, found["votes"], strict=True):
        ours, other = answers["iteration-0"][pair.key], answers["start"][pair.key]
        assert vote["result"] == ("won" if ours < other else "lost")
        assert (vote["choice"] == pair.side) == (vote["result"] == "won")
        assert vote["note"] == "it comes first"


def test_the_judges_votes_are_not_peoples_and_decide_nothing(judged: Path) -> None:
    entries = journal(judged)
    assert votes_on(entries, "iteration-0") == []
    assert len(votes_on(entries, "iteration-0", by_judge=True)) == len(assignment_of(judged).pairs)
    assert review_figures(entries, "iteration-0") == {}
    assert set(review_figures(entries, "iteration-0", by_judge=True)) == {
        f"review/judge/previous{end}" for end in ("", "_low", "_high")
    }
    assert read_record(RunDirectory(judged)).reviews == {}


def test_agreement_with_people_is_shown_where_both_have_voted(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person who votes as the judge did on all pairs but one; the table has a row for both."""
    shutil.copytree(judged, tmp_path / "run", symlinks=True)
    directory, assignment = RunDirectory(tmp_path / "run"), assignment_of(tmp_path / "run")
    votes = entry("review", "iteration-0", tmp_path / "run")["votes"]
    choices = {vote["pair"]: vote["choice"] for vote in votes}
    choices[assignment.pairs[0].id] = {"left": "right", "right": "left"}[choices[assignment.pairs[0].id]]
    (submission,) = read_votes([votes_file(tmp_path / "votes.json", assignment, choices)], directory)
    record(directory, submission)
    count = len(assignment.pairs)
    assert main(["review", str(directory.path), "--show"]) == 0
    assert names(capsys.readouterr().out, "wise", f"{count - 1} of {count} pairs", "alpha")
    table = reviews(read_record(directory))
    assert table is not None
    assert [row.label.endswith("judge wise") for row in table.rows] == [False, True]
    assert names(table.rows[1].cells[-1].detail, f"{count - 1} of {count}", "0.0\u00a0%")
    assert len(table.headings) == len(table.rows[1].cells) + 1


def test_a_judge_that_goes_by_the_place_has_only_ties_and_that_is_shown(llama_folder: Path) -> None:
    reviewed(llama_folder, always_left)
    found = entry("review", "iteration-0")
    assert {vote["result"] for vote in found["votes"]} == {"tie"}
    assert found["position"]["by_position"] == found["position"]["pairs"] == len(found["votes"])
    table = reviews(read_record(RunDirectory("run")))
    assert table is not None
    assert names(table.rows[0].cells[-1].detail, "100.0\u00a0%")


def test_the_judge_sees_the_pages_texts_and_not_whose_they_are(llama_folder: Path) -> None:
    server = reviewed(llama_folder, by_text)
    asked = [texts_of(body) for body in server.bodies]
    pages = RunDirectory("run").review_page("iteration-0").read_text(encoding="utf-8")
    assert all(len(texts) == 3 for texts in asked)
    assert all(json.dumps(text)[1:-1][:5] in pages for texts in asked for text in texts)
    assert not any("iteration" in json.dumps(body) or "previous" in json.dumps(body) for body in server.bodies)


def test_a_judge_without_verdicts_loses_nothing_and_is_asked_once(llama_folder: Path) -> None:
    server = reviewed(llama_folder, lambda prompt, answers: "I can't tell.")
    found = entry("review", "iteration-0")
    assert {vote["result"] for vote in found["votes"]} == {None}
    count = len(server.bodies)
    with serving(JudgeServer(judgement=by_text)) as another:
        again = session(llama_folder, another)
        again.run()
        let_judge_review(again.state, 0)
        assert another.bodies == []
    assert count >= 2 * len(found["votes"])


def test_the_caps_are_compared_with_what_the_reviews_take(llama_folder: Path) -> None:
    with serving(JudgeServer(judgement=by_text)) as server:
        run = session(llama_folder, server, num_iterations=1, review_pairs=["previous", "real"])
        run.run()
        assert questions_of(run.state) == 2 * HELD_OUT


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"judge_url": "https://a/v1", "judge_model": "m"}, "human_review"),
        ({"human_review": "last"}, "judge_url"),
        ({"human_review": "last", "judge_url": "https://a/v1"}, "judge_model"),
    ],
)
def test_what_the_judge_lacks_is_named(settings: dict[str, Any], part: str) -> None:
    with refused(RecipeError, f"`{part}`"):
        SelfPlayConfig(judge_reviews=True, **settings)


def test_an_address_that_may_not_be_asked_is_refused_before_anything_runs(llama_folder: Path) -> None:
    settings = {"human_review": "last", "judge_reviews": True, "judge_model": "m"}
    with refused(RecipeError, "`judge_url`"):
        build(llama_folder, judge_url="ftp://a", **settings).run()
    assert not Path("run").exists()


def test_choices_are_those_of_the_page(judged: Path) -> None:
    """The judge's votes never clash with a reviewer's of the same name."""
    assignment = assignment_of(judged)
    path = votes_file(judged.parent / "wise.json", assignment, choices_for(assignment, 2, 0), "wise")
    (submission,) = read_votes([path], RunDirectory(judged))
    assert len(submission.votes) == 2
