"""Settings of the judge: a model at an endpoint with OpenAI's interface that scores and compares answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..errors import RecipeError
from ..evaluation.figures import SCORE, SCORE_GREEDY
from ..evaluation.scoring import JUDGE
from ..objectives.fields import setting
from .checks import Bounds

JUDGE_KEY_VARIABLE = "JUDGE_API_KEY"
"""The environment variable that holds the judge's key, unless another is named.

It is none of a provider's own, since a key is sent to whatever host `judge_url` names.
"""


@dataclass
class JudgeSettings:
    """The fields of [`SelfPlayConfig`] on the judge.

    Args:
        judge_url: Address of an OpenAI-compatible endpoint whose model judges answers, up to and with its version, such as
            https://api.openai.com/v1. Prompts and answers are sent there. By default, there is no judge.
        judge_model: Name of the judge's model, as the endpoint knows it.
        judge_key_variable: Name of the environment variable that holds the endpoint's key, if it asks for one. The key is
            never sent to another machine over plain HTTP.
        judge_rubric: YAML file of the criteria by which the judge scores answers. By default, four general criteria.
        judge_max_requests: Maximum number of requests to the judge in the whole run. Answers that are left have no score.
        judge_max_tokens: Maximum number of tokens of all requests to the judge and its replies, in the whole run.
        judge_reply_tokens: Maximum number of tokens of one reply of the judge. A model that thinks first needs more.
        judge_concurrency: Maximum number of requests to the judge at the same time.
        judge_timeout: Maximum number of seconds for one request to the judge.
        judge_reviews: With `human_review`, whether the judge also compares the pairs of answers on the review page, in both
            orders. Its votes are shown under its name, and decide nothing.
    """

    judge_url: str | None = setting(
        None,
        "Address of an OpenAI-compatible endpoint whose model judges answers, up to and with its version, such as "
        "https://api.openai.com/v1. Prompts and answers are sent there. By default, there is no judge.",
    )
    judge_model: str | None = setting(None, "Name of the judge's model, as the endpoint knows it.")
    judge_key_variable: str = setting(
        JUDGE_KEY_VARIABLE,
        "Name of the environment variable that holds the endpoint's key, if it asks for one. The key is never sent to "
        "another machine over plain HTTP.",
    )
    judge_rubric: str | None = setting(
        None, "YAML file of the criteria by which the judge scores answers. By default, four general criteria."
    )
    judge_max_requests: Annotated[int, Bounds(1)] = setting(
        2000,
        "Maximum number of requests to the judge in the whole run. Answers that are left have no score.",
    )
    judge_max_tokens: Annotated[int, Bounds(1)] = setting(
        4_000_000,
        "Maximum number of tokens of all requests to the judge and its replies, in the whole run.",
    )
    judge_reply_tokens: Annotated[int, Bounds(16)] = setting(
        1024, "Maximum number of tokens of one reply of the judge. A model that thinks first needs more."
    )
    judge_concurrency: Annotated[int, Bounds(1)] = setting(
        8, "Maximum number of requests to the judge at the same time."
    )
    judge_timeout: Annotated[float, Bounds(0, low_open=True)] = setting(
        120.0, "Maximum number of seconds for one request to the judge."
    )
    judge_reviews: bool = setting(
        False,
        "With `human_review`, whether the judge also compares the pairs of answers on the review page, in both orders. Its "
        "votes are shown under its name, and decide nothing.",
    )

    def check_judge(self, scorer: list[str] | None, retain_scorer: list[str] | None, metric: str) -> None:
        """Raise unless the judge that is asked for is described, and gives the metric.

        Args:
            scorer, retain_scorer: names of the scorers.
            metric: the figure that chooses the best iteration.

        Raises:
            RecipeError: if one of them is the judge, and its address or its model is missing, if only one of these is set,
                or if the metric is the score of another scorer.
        """
        asked = names_judge(scorer, retain_scorer) or self.judge_reviews
        missing = [name for name in ("judge_url", "judge_model") if not getattr(self, name)]
        if missing and (asked or len(missing) == 1):
            asking = "`judge_reviews` asks the judge. It" if self.judge_reviews else "The judge"
            raise RecipeError(
                f"{asking} is a model at an endpoint, but `{missing[0]}` is not set. Set `judge_url` and `judge_model`."
            )
        if scorer == [JUDGE] and metric in (SCORE, SCORE_GREEDY):
            raise RecipeError(
                f"`metric_for_best_iteration` is {metric!r}, but the judge's score is named `{metric}/{JUDGE}`."
            )


def names_judge(*scorers: list[str] | None) -> bool:
    """Return whether one of several lists of scorers' names has the judge."""
    return any(JUDGE in (names or []) for names in scorers)
