"""The scorer gives the judge's mean and criteria under its name, alone and beside others."""

import math
from pathlib import Path

import pytest

from completion_server import serving, status
from judge_server import JudgeServer, judge_at
from spin_trl.evaluation.scoring import AnswerToScore, Permission, notes_on, scorer_of, scores_of
from spin_trl.judging.scorer import JudgeScorer

ITEMS = [AnswerToScore("p", "good", text, {}) for text in ("good", "bad")]


def test_figures_have_its_name_even_alone() -> None:
    with serving(JudgeServer()) as server:
        scorer = scorer_of(["judge"], Permission(make_judge=lambda: JudgeScorer(judge_at(server))))
        good, bad = scores_of(scorer, ITEMS)
        assert isinstance(good, dict)
        assert good["judge"] == 1
        assert good["judge.helpful"] == 1
        assert len(good) == 5
        assert isinstance(bad, dict)
        assert bad["judge"] == 0.25
        assert scorer("p", "good", "bad") == bad
        assert notes_on(scorer)["judge"]["spent"] == {"requests": 4, "tokens": 400}


def test_beside_other_scorers_all_keep_their_numbers() -> None:
    done: list[int] = []
    with serving(JudgeServer()) as server:
        permission = Permission(make_judge=lambda: JudgeScorer(judge_at(server)))
        found = scores_of(scorer_of(["exact_match", "judge"], permission), ITEMS, done.append)
    assert [(one["exact_match"], one["judge"]) for one in found if isinstance(one, dict)] == [(1, 1), (0, 0.25)]
    assert done == sorted(done)
    assert done[-1] == 2


@pytest.mark.parametrize("fault", [status(401)])
def test_without_a_verdict_there_is_one_number_and_it_is_nan(fault) -> None:  # type: ignore[no-untyped-def]
    """So that it is counted once, and in no mean."""
    with serving(JudgeServer(fault=fault)) as server:
        [found] = JudgeScorer(judge_at(server, Path("j.jsonl"))).score_many(ITEMS[:1])
    assert isinstance(found, dict)
    assert list(found) == [""]
    assert math.isnan(found[""])
