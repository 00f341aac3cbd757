"""The held-out figures as shown to users: one registry for tables, plots, cards, trackers, the gate and comparisons.

A figure that is added here, and measured, appears wherever figures are shown.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass

SUFFIXES = ("_se", "_low", "_high", "_change", "_change_low", "_change_high", "_change_p")
"""Suffixes of a figure's name that give its uncertainty or its change."""

SCORE, SCORE_GREEDY = "score", "score_greedy"
"""Mean scores of sampled and of greedily decoded answers; named numbers are `score/NAME`."""

RETAINED = "retention/"
"""Prefix of the figures on the retention set: `retention/nll`, `retention/score`, and `retention/TASK/METRIC`."""

REVIEWED = "review/"
"""Prefix of the win rates in people's votes: `review/previous`, `review/start`, `review/real`."""

GAME, ANSWERS, SCORES = "The game against the opponent", "The answers", "Scores and likelihood"
"""Headings of the report's tables."""


@dataclass(frozen=True)
class Figure:
    """A figure that is measured on held-out prompts.

    Attributes:
        name: key in `metrics.json`.
        words: name in a sentence.
        table: table of the report that shows it; empty: none.
        heading: heading of its column in that table.
        column: heading of its column in a terminal, where space is short; empty: no column.
        rank: columns of higher rank are dropped first in a narrow terminal.
        of_comparisons: whether a terminal shows it only when objectives are compared.
        unit: unit of its values.
        greater_is_better: whether larger values are better, also if it is chosen as the metric of the best iteration.
        is_neutral: whether it only describes: in itself, neither larger nor smaller values are better.
        percent: whether it is a share, shown in percent.
        digits: decimal places, unless it is a share.
        is_difference: whether it compares two models; a terminal then shows it with its sign and its 95 % interval.
    """

    name: str
    words: str
    table: str = ""
    heading: str = ""
    column: str = ""
    rank: int = 0
    of_comparisons: bool = False
    unit: str = ""
    greater_is_better: bool = True
    is_neutral: bool = False
    percent: bool = False
    digits: int = 3
    is_difference: bool = False


_bad_share = functools.partial(Figure, greater_is_better=False, percent=True)
"""A share where less is better: of answers or prompts with something wrong."""

FIGURES: Mapping[str, Figure] = {
    figure.name: figure
    for figure in (
        # Scores come first in a terminal; the report names them after the scorer.
        Figure(SCORE, "score", column="score %", percent=True),
        Figure(SCORE_GREEDY, "greedy score", column="greedy %", rank=1, percent=True),
        Figure("nll", "NLL per token", SCORES, "NLL per token", "NLL/token", greater_is_better=False),
        Figure("win_rate", "win rate", SCORES, "win rate", "win %", 1, percent=True),
        Figure("logps/real", "log-probability of real responses", SCORES, "log-prob., real",
               "logp real", 3, unit="nats", digits=1),
        Figure("logps/generated", "log-probability of the opponent's responses", GAME, "log-prob., generated",
               "logp gen.", 3, unit="nats", is_neutral=True, digits=1),
        Figure("logratio/real", "log-ratio of real responses", GAME, "log-ratio, real",
               "r real", 4, True, "nats", digits=2),
        Figure("logratio/generated", "log-ratio of the opponent's responses", GAME, "log-ratio, generated",
               "r gen.", 4, True, "nats", is_neutral=True, digits=2),
        Figure("gap", "margin", GAME, "margin, nats", unit="nats", digits=2),
        Figure("kl", "KL divergence from the opponent", GAME, "KL, nats",
               "KL", 3, True, "nats", greater_is_better=False, digits=2),
        _bad_share("real_below_generated", "real less likely than generated", GAME, "real below generated",
                   "real<gen. %", 3, True),
        _bad_share("reward_without_likelihood", "reward without likelihood"),
        Figure("length_real", "length of real responses", unit="tokens", is_neutral=True, digits=1),
        Figure("length_generated", "length", ANSWERS, "length, tokens", "tokens", 4, unit="tokens", is_neutral=True,
               digits=1),
        _bad_share("truncated", "share of truncated answers", ANSWERS, "truncated", "trunc. %", 2),
        _bad_share("empty", "share of empty answers", ANSWERS, "empty", "empty %", 2),
        Figure("identical", "share of answers identical to the real response", ANSWERS, "same as real",
               "same %", 2, percent=True),
        _bad_share("degeneration/repetition", "repetition", ANSWERS, "repeated"),
        Figure("degeneration/distinct", "variety, where real responses have 100 %", ANSWERS,
               "variety (real: 100 %)", percent=True),
        _bad_share("degeneration/odd_characters", "odd characters", ANSWERS, "odd characters"),
        _bad_share("degeneration/copies", "copies", ANSWERS, "copied"),
        Figure("degeneration/length_ratio", "length, relative to real responses", is_neutral=True),
        Figure("retention/nll", "NLL per token on the retention set", column="ret. NLL", rank=2, greater_is_better=False),
        Figure("retention/score", "score on the retention set", column="ret. score %", rank=2, percent=True),
        Figure("review/previous", "win rate against the previous model in people's votes", column="people %", rank=1,
               percent=True),
        Figure("review/start", "win rate against the start in people's votes", column="people, start %", rank=2,
               percent=True),
        Figure("review/real", "win rate against the real responses in people's votes", column="people, real %", rank=2,
               percent=True),
    )
}  # fmt: skip
"""Every figure that models can be compared by, in the order of the tables' columns."""


def figure_of(name: str) -> Figure:
    """Return a figure by name; `score/NAME` for a scorer that returns named numbers. An unknown name describes itself."""
    known = FIGURES.get(name)
    if known is not None:
        return known
    if name.startswith(RETAINED):
        of = figure_of(name.removeprefix(RETAINED))
        words, column = f"{of.words} on the retention set", f"ret. {of.column or of.words}"
        return dataclasses.replace(of, name=name, words=words, column=column, table="", heading="", rank=2)
    kind, _, part = name.partition("/")
    if kind not in (SCORE, SCORE_GREEDY):
        return Figure(name, name, heading=name, column=name)
    words = part.replace("_", " ") if kind == SCORE else f"greedy {part.replace('_', ' ')}"
    return dataclasses.replace(FIGURES[kind], name=name, words=words, column=f"{words} %")


def is_score(name: str) -> bool:
    """Return whether a figure comes from a scorer."""
    return name.partition("/")[0] in (SCORE, SCORE_GREEDY)


def is_figure(name: str, names: Collection[str]) -> bool:
    """Return whether one of these names is a figure itself, not the uncertainty or the change of another one."""
    return not any(name.endswith(suffix) and name.removesuffix(suffix) in names for suffix in SUFFIXES)


MEANINGS: Mapping[str, str] = {
    SCORE: "Mean score of the sampled answers. A scorer that returns named numbers gives one figure for each, `score/NAME`.",
    SCORE_GREEDY: "Mean score of the greedily decoded answers (`evaluate_greedy: true`).",
    "nll": "Negative log-likelihood of the real responses, in nats per token.",
    "win_rate": "Share of prompts where the log-ratio prefers the real response to the opponent's; ties count half. At one "
    "half the policy can no longer tell them apart.",
    "logps/real": "Mean log-probability of a real response, summed over its tokens.",
    "logps/generated": "Mean log-probability of the opponent's response, summed over its tokens.",
    "logratio/real": "Mean of r: log-probability of a real response under the model, minus that under its opponent.",
    "logratio/generated": "Mean of r': the same for the opponent's response.",
    "gap": "Mean of r - r': how much further the model has moved towards real responses than towards the opponent's.",
    "kl": "How far the model has moved from its opponent: KL divergence per response, estimated on the opponent's answers.",
    "real_below_generated": "Share of prompts whose real response is less likely than the opponent's.",
    "reward_without_likelihood": "Share of prompts whose real response is less likely than the opponent's although the "
    "log-ratio prefers it: its reward rises while it stays unlikely.",
    "length_real": "Mean length of a real response.",
    "length_generated": "Mean length of an answer.",
    "truncated": "Share of answers truncated before their end (`max_new_tokens`, `max_length`).",
    "empty": "Share of answers with no token before EOS.",
    "identical": "Share of answers that equal the real response token by token.",
    "degeneration/repetition": "Share of four-token phrases in an answer that repeat an earlier one, minus the same share "
    "in the real responses.",
    "degeneration/distinct": "Distinct pairs of neighbouring tokens in the answers, relative to those in the same amount of "
    "real responses: 100 % is as varied as the real responses.",
    "degeneration/odd_characters": "Excess share of those characters in the answers that are far more frequent than in "
    "real responses.",
    "degeneration/copies": "Share of answers that appear word for word in the training data, minus the same share of the "
    "real responses.",
    "retention/nll": "Negative log-likelihood of the responses of `retain_name`, in nats per token. It is compared with the "
    "start, and used for no decision.",
    "retention/score": "Mean score of the answers to the prompts of `retain_name` (`retain_scorer`). A task of "
    "`retain_tasks` gives figures `retention/TASK/METRIC`, as lm-evaluation-harness reports them.",
    "review/previous": "Share of pairs whose answer people preferred to the previous model's, where ties count half "
    "(`human_review`).",
    "review/start": "The same against the start's answer.",
    "review/real": "The same against the real response.",
    "degeneration/length_ratio": "Total tokens of all answers, divided by those of all real responses.",
}
"""Descriptions of the figures in `FIGURES`, for the reference."""
