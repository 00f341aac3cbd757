"""Held-out figures, computed with plain arithmetic from row-by-row measurements."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .intervals import Difference, mean_and_error, of_difference, of_mean
from .scoring import Score

ByPrompt = dict[str, dict[str, float]]
"""Values by figure name, then by prompt key."""

_TOKENS = "real_tokens"
"""Entry of [`ByPrompt`] for the tokens that a prompt's negative log-likelihood is divided by."""


@dataclass(frozen=True)
class HeldOutRow:
    """Measurements on one held-out prompt.

    Attributes:
        real_logp: log-probability of the real response under the model, in nats, summed over its tokens.
        real_tokens: tokens of the real response, EOS included.
        generated_logp: log-probability of the model's own response under the model, in nats.
        generated_tokens: tokens of that response.
        finish_reason: `eos` or `length`.
        identical: whether the generated response equals the real one, token by token.
        real_logratio: log-probability of the real response under the model minus that under its opponent, in nats; None for
            a model without an opponent (the start, a baseline).
        generated_logratio: the same for the opponent's response.
        opponent_generated_logp: log-probability of the opponent's response under the model.
        opponent_generated_tokens: tokens of the opponent's response.
        score: score of the generated response, or None without a scorer.
        greedy_score: score of the greedily decoded response, or None.
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
        """How much the log-ratio prefers real to generated, in nats; None without an opponent."""
        if self.real_logratio is None or self.generated_logratio is None:
            return None
        return self.real_logratio - self.generated_logratio


def summarise(rows: Sequence[HeldOutRow]) -> dict[str, float]:
    """Return a model's figures over its held-out prompts.

    Returns:
        `nll`: negative log-likelihood of the real responses, in nats per token;
        `logps/real`, `logps/generated`: mean log-probability of a real response, and of the opponent's;
        `win_rate`: share of prompts where the log-ratio prefers real to generated, ties counting half;
        `length_real`, `length_generated`: mean tokens; `empty`, `truncated`, `identical`: shares of generated responses;
        `score`, `score_greedy`: mean scores; `score/NAME` and so on for a scorer that returns several numbers. Means come
        with their standard error `NAME_se` and the 95 % interval from `NAME_low` to `NAME_high`. Figures that were not
        measured are absent.
    """
    count = len(rows)
    tokens = [row.real_tokens for row in rows]
    figures = {
        "held_out": float(count),
        **mean_of("nll", [-row.real_logp for row in rows], tokens),
        "logps/real": sum(row.real_logp for row in rows) / count,
        "length_real": sum(tokens) / count,
        "length_generated": sum(row.generated_tokens for row in rows) / count,
        "empty": sum(row.generated_tokens <= (row.finish_reason == "eos") for row in rows) / count,
        "truncated": sum(row.finish_reason == "length" for row in rows) / count,
        "identical": sum(row.identical for row in rows) / count,
    }
    opponents = [row.opponent_generated_logp for row in rows if row.opponent_generated_logp is not None]
    if opponents:
        figures["logps/generated"] = sum(opponents) / len(opponents)
    by_prompt = values_of({str(number): row for number, row in enumerate(rows)})
    for name, values in by_prompt.items():
        if name not in ("nll", _TOKENS):
            figures |= mean_of(name, list(values.values()))
    return figures


def values_of(rows: Mapping[str, HeldOutRow]) -> ByPrompt:
    """Return a model's results by figure and prompt, for comparisons with others: `nll`, `win_rate` and scores.

    Args:
        rows: measurements by prompt key. A figure has values only for the prompts it was measured on, and a score only for
            those where it is finite.
    """
    values: ByPrompt = {
        "nll": {key: -row.real_logp for key, row in rows.items()},
        _TOKENS: {key: float(row.real_tokens) for key, row in rows.items()},
    }
    for key, row in rows.items():
        if row.margin is not None:
            values.setdefault("win_rate", {})[key] = (row.margin > 0) + (row.margin == 0) / 2
        for name, value in _scores(row):
            if math.isfinite(value):
                values.setdefault(name, {})[key] = value
    return values


def likelihoods(logps: Mapping[str, float], tokens: Mapping[str, int]) -> ByPrompt:
    """Return the negative log-likelihoods of real responses, like [`values_of`] without answers.

    Args:
        logps: log-probability of each response, in nats, by prompt key.
        tokens: number of tokens of each response, EOS included, by prompt key.
    """
    return {
        "nll": {key: -logp for key, logp in logps.items()},
        _TOKENS: {key: float(tokens[key]) for key in logps},
    }


def token_counts(values: ByPrompt) -> dict[str, float]:
    """Return the numbers of tokens that the negative log-likelihoods are divided by, by prompt key."""
    return values.get(_TOKENS, {})


def unscored(rows: Mapping[str, HeldOutRow]) -> dict[str, list[str]]:
    """Return the keys of prompts for which a scorer gave no finite number, by figure name."""
    found: dict[str, list[str]] = {}
    for key, row in rows.items():
        for name, value in _scores(row):
            if not math.isfinite(value):
                found.setdefault(name, []).append(key)
    return found


def _scores(row: HeldOutRow) -> Iterator[tuple[str, float]]:
    """Yield the scores of a row's responses, with the figures' names."""
    for figure, score in (("score", row.score), ("score_greedy", row.greedy_score)):
        named = score if isinstance(score, Mapping) else {"": score}
        for name, value in named.items():
            if value is not None:
                yield f"{figure}/{name}" if name else figure, value


def difference(name: str, now: ByPrompt, before: ByPrompt) -> Difference | None:
    """Return how one figure differs between two models, on the prompts that both have answered.

    Args:
        name: name of the figure. The win rate can't be compared, since each is against a different opponent.
        now, before: results of [`values_of`].

    Returns:
        `now` minus `before`, or None if they have no prompt in common.
    """
    keys = [key for key in now.get(name, {}) if key in before.get(name, {})]
    if not keys or name in ("win_rate", _TOKENS):
        return None
    weights = [now[_TOKENS][key] for key in keys] if name == "nll" else None
    return of_difference([now[name][key] for key in keys], [before[name][key] for key in keys], weights)


def changes(now: ByPrompt, before: ByPrompt) -> dict[str, float]:
    """Return how figures have changed from one model to another, on the prompts that both have answered.

    Args:
        now, before: results of [`values_of`].

    Returns:
        For every figure that both have: `NAME_change`, its interval `NAME_change_low` and `NAME_change_high`, and
        `NAME_change_p`, the probability of a change at least this large between equal models. The win rate is omitted.
    """
    figures: dict[str, float] = {}
    for name in now:
        found = difference(name, now, before)
        if found is not None:
            change = f"{name}_change"
            figures |= {change: found.value, f"{change}_low": found.low, f"{change}_high": found.high}
            figures[f"{change}_p"] = found.p
    return figures


def mean_of(name: str, values: Sequence[float], weights: Sequence[float] | None = None) -> dict[str, float]:
    """Return the mean as `name`, its standard error as `name_se`, and its interval as `name_low` and `name_high`.

    The result is empty if there are no values.
    """
    if not values:
        return {}
    mean, error = mean_and_error(values, weights)
    low, high = of_mean(values, weights)
    return {name: mean, f"{name}_se": error, f"{name}_low": low, f"{name}_high": high}
