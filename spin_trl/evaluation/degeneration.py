"""Signs that a model's answers have gone bad, without labels: each against what the real responses are like.

Self-play that collapses is seen here first: empty or cut answers, phrases over and over, answers that are all alike or much
too long, a character from nowhere, training responses by heart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .figures import figure_of

NGRAM = 4
"""Tokens of a phrase that counts as repeated when it comes again within a response."""

ODD_FACTOR = 10
"""How many times as frequent as in real responses a character must be to count as odd."""


@dataclass(frozen=True)
class Sign:
    """A figure that is bad beyond a threshold.

    Attributes:
        figure: its name among held-out figures.
        warn: threshold of a warning.
        means: in words, for the warning; `{value}` is the figure.
        low: whether small values are the bad ones.
    """

    figure: str
    warn: float
    means: str
    low: bool = False


SIGNS: Mapping[str, Sign] = {
    "empty": Sign("empty", 0.1, "{value} of the answers are empty"),
    "truncated": Sign("truncated", 0.5, "{value} of the answers were cut before their end"),
    "repetition": Sign(
        "degeneration/repetition",
        0.2,
        "answers repeat themselves: {value} more of their phrases than in real responses",
    ),
    "distinct": Sign(
        "degeneration/distinct", 0.5, "answers are alike: {value} of the variety of real responses", low=True
    ),
    "short": Sign("degeneration/length_ratio", 0.33, "answers are {value} times as long as real responses", low=True),
    "long": Sign("degeneration/length_ratio", 3.0, "answers are {value} times as long as real responses"),
    "odd_characters": Sign(
        "degeneration/odd_characters",
        0.05,
        "{value} of the answers' characters are far more frequent than in real responses",
    ),
    "copies": Sign(
        "degeneration/copies", 0.2, "{value} more of the answers than of the real responses stand in the training data"
    ),
}
"""By the names that `degeneration_warn` and `degeneration_stop` use."""


@dataclass(frozen=True)
class AnsweredPrompt:
    """A generated response and the real one to the same prompt.

    Attributes:
        generated_ids, real_ids: their tokens.
        generated, real: their texts.
    """

    generated_ids: Sequence[int]
    real_ids: Sequence[int]
    generated: str
    real: str


def measure(answers: Sequence[AnsweredPrompt], training_responses: Collection[str]) -> dict[str, float]:
    """Figures of degeneration.

    Args:
        answers: to the held-out prompts.
        training_responses: texts of the real responses that were trained on, whitespace made one.

    Returns:
        `degeneration/repetition`: share of phrases of four tokens that a response has had before, less the same of real
        responses; `degeneration/distinct`: distinct pairs of neighbouring tokens, over those of as much of the real
        responses; `degeneration/length_ratio`: tokens by those of real responses; `degeneration/odd_characters`: share of
        characters beyond what real responses have, of those that are far more frequent; `degeneration/copies`: share of
        responses that stand in the training data, less the same of real responses. Nothing without answers.
    """
    if not answers:
        return {}
    generated_ids, real_ids = [answer.generated_ids for answer in answers], [answer.real_ids for answer in answers]
    figures = {
        "degeneration/repetition": _repetition(generated_ids) - _repetition(real_ids),
        "degeneration/length_ratio": sum(map(len, generated_ids)) / max(sum(map(len, real_ids)), 1),
        "degeneration/odd_characters": sum(odd_characters(answers).values()),
        "degeneration/copies": _copies([answer.generated for answer in answers], training_responses)
        - _copies([answer.real for answer in answers], training_responses),
    }
    of_generated, of_real = _neighbours(generated_ids), _neighbours(real_ids)
    # The more text, the fewer of its pairs are new: as much of one as of the other.
    count = min(len(of_generated), len(of_real))
    if count:
        figures["degeneration/distinct"] = len(set(of_generated[:count])) / len(set(of_real[:count]))
    return figures


def odd_characters(answers: Sequence[AnsweredPrompt]) -> dict[str, float]:
    """Characters that are far more frequent in generated responses than in real ones, by their share in excess."""
    generated = Counter("".join(answer.generated for answer in answers))
    real = Counter("".join(answer.real for answer in answers))
    of_generated, of_real = max(generated.total(), 1), max(real.total(), 1)
    shares = {character: (count / of_generated, real[character] / of_real) for character, count in generated.items()}
    # A character that real responses happen not to have counts as if they had it once.
    return {c: own - theirs for c, (own, theirs) in shares.items() if own > ODD_FACTOR * max(theirs, 1 / of_real)}


def normalised(text: str) -> str:
    """A text whose whitespace is one space each."""
    return " ".join(text.split())


def _repetition(responses: Sequence[Sequence[int]]) -> float:
    """Mean share of phrases that a response has had before; a response without a phrase has none."""
    shares = []
    for ids in responses:
        phrases = [tuple(ids[start : start + NGRAM]) for start in range(len(ids) - NGRAM + 1)]
        shares.append(1 - len(set(phrases)) / len(phrases) if phrases else 0.0)
    return sum(shares) / len(shares)


def _neighbours(responses: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs of neighbouring tokens, response by response (distinct-2; Li et al., arXiv 1510.03055)."""
    return [pair for ids in responses for pair in pairwise(ids)]


def _copies(texts: Sequence[str], training_responses: Collection[str]) -> float:
    return sum(normalised(text) in training_responses for text in texts) / len(texts)


@dataclass(frozen=True)
class Finding:
    """A sign that was found.

    Attributes:
        name: of `SIGNS`.
        message: in words.
        stops: whether it is beyond the threshold that stops a run.
    """

    name: str
    message: str
    stops: bool


def findings(
    figures: Mapping[str, float], warn: Mapping[str, float | None], stop: Mapping[str, float | None]
) -> list[Finding]:
    """What is wrong with a model's answers, by thresholds.

    Args:
        figures: held-out figures of the model. Signs whose figures were not measured are not found.
        warn: thresholds of warnings by sign, instead of the usual ones; None: no warning.
        stop: thresholds that stop the run, by sign; None, or none: it goes on.
    """
    found = []
    for name, sign in SIGNS.items():
        value = figures.get(sign.figure)
        if value is None:
            continue
        thresholds = {"warn": warn.get(name, sign.warn), "stop": stop.get(name)}
        beyond = {
            kind
            for kind, limit in thresholds.items()
            if limit is not None and (value < limit if sign.low else value > limit)
        }
        if beyond:
            text = f"{100 * value:.0f} %" if figure_of(sign.figure).percent else f"{value:.2g}"
            found.append(Finding(name, sign.means.format(value=text), "stop" in beyond))
    return found
