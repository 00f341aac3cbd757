"""The held-out figures as people see them: one table for tables, plots, cards, trackers, the gate and comparisons.

A figure that is added here, and measured, shows up wherever figures do.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass

SUFFIXES = ("_se", "_low", "_high", "_change", "_change_low", "_change_high", "_change_p")
"""What follows a figure's name in the names of those that say how sure it is, or how it has changed."""

SCORE, SCORE_GREEDY = "score", "score_greedy"
"""What a scorer gives for sampled answers, and for those that are decoded greedily; named numbers are `score/NAME`."""

GAME, ANSWERS, SCORES = "The game against the opponent", "The answers", "Scores and likelihood"
"""Headings of the report's tables."""


@dataclass(frozen=True)
class Figure:
    """A figure that is measured on held-out prompts.

    Attributes:
        name: in `metrics.json`.
        words: what a sentence calls it.
        table: of the report that it stands in; empty: it is in none.
        heading: of its column there.
        column: heading of its column in a terminal, where there is little room; empty: it has none.
        rank: columns of high rank go first where a terminal is narrow.
        of_comparisons: whether a terminal shows it only where objectives are compared.
        unit: of its values.
        greater_is_better: whether more of it is better.
        percent: whether it is a share, shown in percent.
        digits: behind the point, unless it is a share.
        is_difference: whether it compares two models: a terminal shows it with its sign and its 95 % interval.
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
    percent: bool = False
    digits: int = 3
    is_difference: bool = False


_bad_share = functools.partial(Figure, greater_is_better=False, percent=True)
"""A share of which less is better: of answers or of prompts where something is wrong."""

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
               "logp gen.", 3, unit="nats", digits=1),
        Figure("logratio/real", "log-ratio of real responses", GAME, "log-ratio, real",
               "r real", 4, True, "nats", digits=2),
        Figure("logratio/generated", "log-ratio of the opponent's responses", GAME, "log-ratio, generated",
               "r gen.", 4, True, "nats", digits=2),
        Figure("gap", "margin", GAME, "margin, nats", unit="nats", digits=2),
        Figure("kl", "KL divergence from the opponent", GAME, "KL, nats",
               "KL", 3, True, "nats", greater_is_better=False, digits=2),
        _bad_share("real_below_generated", "real less likely than generated", GAME, "real below generated",
                   "real<gen. %", 3, True),
        _bad_share("reward_without_likelihood", "reward without likelihood"),
        Figure("length_real", "length of real responses", unit="tokens", digits=1),
        Figure("length_generated", "length", ANSWERS, "length, tokens", "tokens", 4, unit="tokens", digits=1),
        _bad_share("truncated", "share of cut answers", ANSWERS, "cut", "cut %", 2),
        _bad_share("empty", "share of empty answers", ANSWERS, "empty", "empty %", 2),
        Figure("identical", "share of answers that are the real one", ANSWERS, "same as real",
               "same %", 2, percent=True),
        _bad_share("degeneration/repetition", "repetition", ANSWERS, "repeated"),
        Figure("degeneration/distinct", "variety, where real responses have 100 %", ANSWERS,
               "variety (real: 100 %)", percent=True),
        _bad_share("degeneration/odd_characters", "odd characters", ANSWERS, "odd characters"),
        _bad_share("degeneration/copies", "copies", ANSWERS, "copied"),
        Figure("degeneration/length_ratio", "length, relative to real responses"),
    )
}  # fmt: skip
"""Every figure by which models can be compared, in the order of the tables' columns."""


def figure_of(name: str) -> Figure:
    """A figure by its name; of a scorer that returns named numbers, `score/NAME`. What is unknown goes by its name."""
    known = FIGURES.get(name)
    if known is not None:
        return known
    kind, _, part = name.partition("/")
    if kind not in (SCORE, SCORE_GREEDY):
        return Figure(name, name, heading=name, column=name)
    words = part.replace("_", " ") if kind == SCORE else f"greedy {part.replace('_', ' ')}"
    return dataclasses.replace(FIGURES[kind], name=name, words=words, column=f"{words} %")


def is_score(name: str) -> bool:
    """Whether a figure is a scorer's."""
    return name.partition("/")[0] in (SCORE, SCORE_GREEDY)


def is_figure(name: str, names: Collection[str]) -> bool:
    """Whether a name, among names, is a figure's own: not one that says something of another figure."""
    return not any(name.endswith(suffix) and name.removesuffix(suffix) in names for suffix in SUFFIXES)


MEANINGS: Mapping[str, str] = {
    SCORE: "Mean of what the scorer gives for sampled answers. A scorer that returns named numbers has one figure for each, "
    "`score/NAME`.",
    SCORE_GREEDY: "The same for answers that are decoded greedily (`evaluate_greedy: true`).",
    "nll": "Negative log-likelihood of the real responses, in nats per token.",
    "win_rate": "Share of prompts whose log-ratio prefers the real response to the opponent's; ties count half. At one half "
    "the policy no longer tells them apart.",
    "logps/real": "Mean log-probability of a real response, summed over its tokens.",
    "logps/generated": "Mean log-probability of the opponent's response, summed over its tokens.",
    "logratio/real": "Mean of r: log-probability of a real response under the model, less that under its opponent.",
    "logratio/generated": "Mean of r': the same of the opponent's response.",
    "gap": "Mean of r - r': how much further the model has moved towards real responses than towards the opponent's.",
    "kl": "How far the model has moved from its opponent: KL divergence of a response, estimated on the opponent's answers.",
    "real_below_generated": "Share of prompts whose real response is less likely than the opponent's.",
    "reward_without_likelihood": "Share of prompts where that is so although the log-ratio prefers the real response: the "
    "reward rises, and the real response stays unlikely.",
    "length_real": "Mean length of a real response.",
    "length_generated": "Mean length of an answer.",
    "truncated": "Share of answers that were cut before their end (`max_new_tokens`, `max_length`).",
    "empty": "Share of answers with no token before their end.",
    "identical": "Share of answers that are the real response, token by token.",
    "degeneration/repetition": "Share of phrases of four tokens that an answer has had before, less the same share of the "
    "real responses.",
    "degeneration/distinct": "Distinct pairs of neighbouring tokens in the answers, relative to those in as much text of "
    "the real responses: 100 % is as varied as real responses.",
    "degeneration/odd_characters": "Share of the answers' characters that are far more frequent than in real responses.",
    "degeneration/copies": "Share of answers that stand in the training data word for word, less the same share of the real "
    "responses.",
    "degeneration/length_ratio": "Tokens of all answers, divided by those of all real responses.",
}
"""What a figure of `FIGURES` means, for the reference."""
