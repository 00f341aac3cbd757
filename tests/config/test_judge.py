"""Settings of the judge are the loop's, and a judge that is named must be described."""

import dataclasses
from typing import Any

import pytest

from messages import refused
from spin_trl.config.judge import JudgeSettings
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.config.traits import FREE, PATHS
from spin_trl.errors import RecipeError

JUDGED: dict[str, Any] = {"judge_url": "https://a/v1", "judge_model": "m"}


def test_there_is_no_judge_by_default_and_what_changes_its_scores_may_not_change() -> None:
    play, names = SelfPlayConfig(), {field.name for field in dataclasses.fields(JudgeSettings)}
    assert (play.judge_url, play.judge_model, play.judge_key_variable) == (None, None, "JUDGE_API_KEY")
    assert names - set(FREE) == {"judge_model", "judge_rubric", "judge_reply_tokens"}
    assert "judge_rubric" in PATHS


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"scorer": "judge"}, "judge_url"),
        ({"retain_scorer": ["gsm8k", "judge"], "judge_url": "https://a"}, "judge_model"),
        ({"judge_url": "https://a"}, "judge_model"),
        ({"judge_model": "m"}, "judge_url"),
    ],
)
def test_a_judge_needs_an_address_and_a_model(settings: dict[str, Any], missing: str) -> None:
    with refused(RecipeError, f"`{missing}`"):
        SelfPlayConfig(**settings)
    SelfPlayConfig(**{**JUDGED, **settings})


@pytest.mark.parametrize("metric", ["score", "score_greedy"])
def test_the_score_of_a_judge_has_its_name(metric: str) -> None:
    with refused(RecipeError, "`metric_for_best_iteration`", f"`{metric}/judge`"):
        SelfPlayConfig(scorer="judge", metric_for_best_iteration=metric, **JUDGED)
    SelfPlayConfig(scorer="judge", metric_for_best_iteration=f"{metric}/judge", **JUDGED)


@pytest.mark.parametrize("name", ["judge_max_requests", "judge_max_tokens", "judge_concurrency", "judge_timeout"])
def test_bounds(name: str) -> None:
    with refused(RecipeError, f"`{name}`", 0):
        SelfPlayConfig(**{name: 0})
