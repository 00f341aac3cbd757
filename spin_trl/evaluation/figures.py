"""Held-out figures as plain arithmetic on what was measured, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Score = float | Mapping[str, float]
"""What a scorer says of a generated response: a number, or named numbers."""


@dataclass(frozen=True)
class HeldOutRow:
    """What is measured on one held-out prompt.

    Attributes:
        real_logp: log-probability of the real response under the model, in nats, summed over its tokens.
        real_tokens: tokens of the real response, EOS included.
        generated_logp: log-probability under the model of what it generated itself, in nats.
        generated_tokens: tokens of that response.
        finish_reason: `eos` or `length`.
        identical: whether the generated response is the real one, token by token.
        real_logratio: log-probability of the real response, the model's minus its opponent's, in nats; None for a model
            that has no opponent (the start, a baseline).
        generated_logratio: the same of the opponent's response.
        opponent_generated_logp: log-probability under the model of the opponent's response.
        opponent_generated_tokens: tokens of the opponent's response.
        score: of the generated response, or None without a scorer.
        greedy_score: of the response that is decoded greedily, or None.
    """

    real_logp: float
    real_tokens: int
    generated_logp: float
    generated_tokens: int
    finish_reason: str
    identical: bool
    real_logratio: float | None = None
    generated_logratio: float | None = None
    opponent_generated_logp: float | None = None
    opponent_generated_tokens: int | None = None
    score: Score | None = None
    greedy_score: Score | None = None

    @property
    def margin(self) -> float | None:
        """By how much the log-ratio prefers real to generated, in nats; None without an opponent."""
        if self.real_logratio is None or self.generated_logratio is None:
            return None
        return self.real_logratio - self.generated_logratio


def summarise(rows: Sequence[HeldOutRow]) -> dict[str, float]:
    """Figures of a model over its held-out prompts.

    Returns:
        `nll`: negative log-likelihood of the real responses, in nats per token, and its standard error `nll_se`;
        `logps/real`, `logps/generated`: mean log-probability of a real response, and of the opponent's;
        `win_rate`: share of prompts where the log-ratio prefers real to generated, ties counting half, and `win_rate_se`;
        `length_real`, `length_generated`: mean tokens; `empty`, `truncated`, `identical`: shares of generated responses;
        `score`, `score_se`, `score_greedy`, `score_greedy_se`: means of the scorer, and their standard errors; of
        a scorer that returns several numbers `score/NAME`, `score/NAME_se`, `score_greedy/NAME` and so on.
        Figures that were not measured are absent.
    """
    count = len(rows)
    tokens = sum(row.real_tokens for row in rows)
    nll = -sum(row.real_logp for row in rows) / tokens
    figures = {
        "held_out": float(count),
        "nll": nll,
        # Of a ratio of sums: the residuals' spread over the mean denominator (delta method).
        "nll_se": _standard_error([-row.real_logp - nll * row.real_tokens for row in rows]) * count / tokens,
        "logps/real": sum(row.real_logp for row in rows) / count,
        "length_real": tokens / count,
        "length_generated": sum(row.generated_tokens for row in rows) / count,
        "empty": sum(row.generated_tokens <= (row.finish_reason == "eos") for row in rows) / count,
        "truncated": sum(row.finish_reason == "length" for row in rows) / count,
        "identical": sum(row.identical for row in rows) / count,
    }
    margins = [row.margin for row in rows if row.margin is not None]
    figures |= mean_of("win_rate", [(margin > 0) + (margin == 0) / 2 for margin in margins])
    opponents = [row.opponent_generated_logp for row in rows if row.opponent_generated_logp is not None]
    if opponents:
        figures["logps/generated"] = sum(opponents) / len(opponents)
    figures |= _score_means("score", [row.score for row in rows if row.score is not None])
    figures |= _score_means("score_greedy", [row.greedy_score for row in rows if row.greedy_score is not None])
    return figures


def _score_means(figure: str, scores: Sequence[Score]) -> dict[str, float]:
    """Means of scores by figure. A name that a row's scores don't hold is averaged over the other rows."""
    values: dict[str, list[float]] = {}
    for score in scores:
        if isinstance(score, Mapping):
            for name, value in score.items():
                values.setdefault(f"{figure}/{name}", []).append(value)
        else:
            values.setdefault(figure, []).append(score)
    means: dict[str, float] = {}
    for name, found in values.items():
        means |= mean_of(name, found)
    return means


def mean_of(name: str, values: Sequence[float]) -> dict[str, float]:
    """The mean as `name`, and its standard error as `name_se`; nothing if there are no values."""
    if not values:
        return {}
    return {name: sum(values) / len(values), f"{name}_se": _standard_error(values)}


def _standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of independent values."""
    if len(values) < 2:
        return math.nan
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
