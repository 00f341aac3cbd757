"""Who judged, at what cost, and what is wrong with the scores, is told from the journal."""

from typing import Any

from made_up import record
from messages import names
from spin_trl.report.judge_facts import faults_of_judge, who_judged

JUDGE = {"model": "wise", "host": "judge.example", "rubric": "ab12", "spent": {"requests": 81, "tokens": 9000}}


def evaluated(stage: str, **more: Any) -> dict[str, Any]:
    return {"phase": "evaluate", "stage": stage, "held_out": 40, "judge": JUDGE, **more}


def test_the_judge_is_named_with_what_it_cost() -> None:
    shown = record(journal=[evaluated("start")])
    assert names(who_judged(shown), "wise", "judge.example", "ab12", "81", "9,000")
    assert "judge.example" not in who_judged(shown, names_host=False)
    assert faults_of_judge(shown) == ""


def test_without_a_judge_there_is_nothing_to_tell() -> None:
    without = record(journal=[{"phase": "evaluate", "stage": "start", "unscored": {"score": 3}}])
    assert who_judged(without) == faults_of_judge(without) == ""


def test_scores_that_can_be_won_by_asking_come_first_and_missing_ones_after() -> None:
    flattered = {**JUDGE, "follows_instructions": True, "ended_by": "judge_max_requests"}
    shown = record(
        journal=[
            evaluated("iteration-0", unscored={"score/judge": 10, "score_greedy/judge": 1}, judge=flattered),
            {"phase": "test", "stage": "start", "prompts": 9, "judge": JUDGE, "unscored": {"score/judge": 2}},
        ]
    )
    first, *others = faults_of_judge(shown).split("; ")
    assert names(first, "instructions")
    assert names(others[0], "iteration-0", 30, 40)
    assert names(others[1], "start", "test", 7, 9)
    assert names(others[2], "`judge_max_requests`")
