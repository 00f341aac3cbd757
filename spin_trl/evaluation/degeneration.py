"""Label-free signs that a model's answers have degenerated, each relative to the real responses.

Self-play that collapses shows up here first: empty or truncated answers, repeated phrases, answers that are too similar or
much too long, stray characters, memorised training responses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .figures import figure_of

NGRAM = 4
"""Number of tokens in a phrase, which counts as repeated if it occurs again within a response."""

ODD_FACTOR = 10
"""Frequency of a character, relative to real responses, above which it counts as odd."""


@dataclass(frozen=True)
class Sign:
    """A figure that is bad beyond a threshold.

    Attributes:
        figure: name of the held-out figure.
        warn: threshold for a warning.
        means: text of the warning; `{value}` stands for the figure.
        low: whether small values are bad.
    """

    figure: str
    warn: float
    means: str
    low: bool = False


SIGNS: Mapping[str, Sign] = {
    "empty": Sign("empty", 0.1, "{value} of the answers are empty"),
    "truncated": Sign("truncated", 0.5, "{value} of the answers were truncated"),
    "repetition": Sign(
        "degeneration/repetition",
        0.2,
        "answers repeat themselves: {value} more of their phrases are repeated than in real responses",
    ),
    "distinct": Sign(
        "degeneration/distinct", 0.5, "answers lack variety: {value} of the variety of real responses", low=True
    ),
    "short": Sign("degeneration/length_ratio", 0.33, "answers are {value} times as long as real responses", low=True),
    "long": Sign("degeneration/length_ratio", 3.0, "answers are {value} times as long as real responses"),
    "odd_characters": Sign(
        "degeneration/odd_characters",
        0.05,
        "characters that are far more frequent than in real responses make up {value} of the answers",
    ),
    "copies": Sign(
        "degeneration/copies",
        0.2,
        "{value} more of the answers than of the real responses appear in the training data",
    ),
}
"""Signs by the names that `degeneration_warn` and `degeneration_stop` use."""


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt's generated response and its real one.

    Attributes:
        generated_ids, real_ids: token ids of the two.
        generated, real: texts of the two.
    """

    generated_ids: Sequence[int]
    real_ids: Sequence[int]
    generated: str
    real: str


def measure(answers: Sequence[AnsweredPrompt], training_responses: Collection[str]) -> dict[str, float]:
    """Compute figures of degeneration.

    Args:
        answers: answers to the held-out prompts.
        training_responses: texts of the real responses in the training data, with whitespace normalised.

    Returns:
        `degeneration/repetition`: share of four-token phrases that repeat an earlier one in the response, minus the same in
        real responses; `degeneration/distinct`: distinct pairs of neighbouring tokens, divided by those in the same amount
        of real responses; `degeneration/length_ratio`: number of tokens divided by that of the real responses;
        `degeneration/odd_characters`: share of characters that are far more frequent than in real responses, in excess of
        their share there; `degeneration/copies`: share of responses that appear in the training data, minus the same for
        real responses. Empty without answers.
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
    # Longer text has fewer new pairs, so the same amount of each is compared.
    count = min(len(of_generated), len(of_real))
    if count:
        figures["degeneration/distinct"] = len(set(of_generated[:count])) / len(set(of_real[:count]))
    return figures


def odd_characters(answers: Sequence[AnsweredPrompt]) -> dict[str, float]:
    """Return characters that are far more frequent in generated responses than in real ones, with their excess share."""
    generated = Counter("".join(answer.generated for answer in answers))
    real = Counter("".join(answer.real for answer in answers))
    of_generated, of_real = max(generated.total(), 1), max(real.total(), 1)
    shares = {character: (count / of_generated, real[character] / of_real) for character, count in generated.items()}
    # A character that happens not to occur in real responses counts as if it occurred once.
    return {c: own - theirs for c, (own, theirs) in shares.items() if own > ODD_FACTOR * max(theirs, 1 / of_real)}


def normalised(text: str) -> str:
    """Return a text with every run of whitespace replaced by one space."""
    return " ".join(text.split())


def _repetition(responses: Sequence[Sequence[int]]) -> float:
    """Return the mean share of phrases that repeat an earlier one in their response; it is 0 for short responses."""
    shares = []
    for ids in responses:
        phrases = [tuple(ids[start : start + NGRAM]) for start in range(len(ids) - NGRAM + 1)]
        shares.append(1 - len(set(phrases)) / len(phrases) if phrases else 0.0)
    return sum(shares) / len(shares)


def _neighbours(responses: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Return pairs of neighbouring tokens within each response (distinct-2; Li et al., arXiv 1510.03055)."""
    return [pair for ids in responses for pair in pairwise(ids)]


def _copies(texts: Sequence[str], training_responses: Collection[str]) -> float:
    return sum(normalised(text) in training_responses for text in texts) / len(texts)


@dataclass(frozen=True)
class Finding:
    """A sign that was found.

    Attributes:
        name: name in `SIGNS`.
        message: text of the warning.
        stops: whether it is beyond the threshold that stops a run.
    """

    name: str
    message: str
    stops: bool


def findings(
    figures: Mapping[str, float], warn: Mapping[str, float | None], stop: Mapping[str, float | None]
) -> list[Finding]:
    """Return the signs of degeneration in a model's figures, by thresholds.

    Args:
        figures: held-out figures of the model. Signs whose figures were not measured are skipped.
        warn: warning thresholds by sign, replacing the defaults; None: no warning.
        stop: thresholds by sign that stop the run; None or missing: the run continues.
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
