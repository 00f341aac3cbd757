"""Chooses the prompts of a review, and pairs answers to them, on random sides and in random order."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...config.review import REAL_RESPONSE, SAMPLED
from ...errors import RunDirectoryError
from ...run.directory import RunDirectory
from ...run.stage import Stage
from ..html.samples import prompt_texts
from ..text import cut
from ..write import read_samples
from .assignment import SIDES, AssignedPair, Assignment, run_id
from .page import shown_data
from .stored import digest_of

STRATA = 4
"""Number of groups, by the length of the real response, that prompts are drawn from evenly."""

LONGEST = 20_000
"""Maximum number of characters shown of a text."""

PAGE_FORMAT = 1
"""Number of the format of the page's data."""

Texts = Mapping[str, str]
"""Answers by the keys of their prompts."""


@dataclass(frozen=True)
class HeldOutPrompt:
    """A held-out prompt.

    Attributes:
        prompt: the prompt: text, or messages.
        real: real response.
    """

    prompt: Any
    real: str


def choose(lengths: Mapping[str, int], count: int, seed: int) -> list[str]:
    """Draw prompts at random, with as many from each quarter of the lengths.

    The same prompts are drawn for all iterations, and drawing more keeps those that were drawn before, as far as quarters
    have enough.

    Args:
        lengths: lengths of the real responses, in characters, by the keys of the prompts.
        count: number of prompts to draw; all, if there are fewer.
        seed: random seed.

    Returns:
        Their keys.
    """

    def drawn(key: str) -> str:
        return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()

    by_length = sorted(lengths, key=lambda key: (lengths[key], drawn(key)))
    strata = [
        sorted(by_length[len(by_length) * part // STRATA : len(by_length) * (part + 1) // STRATA], key=drawn)
        for part in range(STRATA)
    ]
    # The first of each quarter, then the second of each, and so on; within a round in random order.
    longest = max(map(len, strata), default=0)
    rounds = [sorted((one[place] for one in strata if place < len(one)), key=drawn) for place in range(longest)]
    return [key for of_round in rounds for key in of_round][:count]


def lengths_of(directory: RunDirectory, stage: Stage) -> dict[str, int]:
    """Return the lengths of the real responses to the held-out prompts that a stage has answered, by key."""
    return {row["key"]: len(_text_of_row(row, "real")) for row in read_samples(directory.samples(stage))}


def prompts_of(directory: RunDirectory, stage: Stage, keys: Iterable[str]) -> dict[str, HeldOutPrompt]:
    """Return held-out prompts with their real responses, by key."""
    return {
        row["key"]: HeldOutPrompt(row.get("prompt"), _text_of_row(row, "real"))
        for row in _rows(directory, stage, keys)
    }


def sampled_answers(directory: RunDirectory, stage: Stage, keys: Iterable[str]) -> dict[str, str]:
    """Return a stage's sampled answers to held-out prompts, by key."""
    return {row["key"]: _text_of_row(row, "generated") for row in _rows(directory, stage, keys)}


def _rows(directory: RunDirectory, stage: Stage, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
    wanted = set(keys)
    return (row for row in read_samples(directory.samples(stage)) if row["key"] in wanted)


def _text_of_row(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise RunDirectoryError(f"The sample {row['key']!r} has no text `{name}`: {value!r:.60}.")
    return value


def draw_sides(
    directory: RunDirectory,
    stage: Stage,
    prompts: Mapping[str, HeldOutPrompt],
    ours: Texts,
    others: Mapping[str, Texts],
    against: Sequence[str],
    mode: str = SAMPLED,
) -> tuple[Assignment, dict[str, Any]]:
    """Pair a stage's answers with others, on random sides and in random order.

    Every prompt is used for one comparison: an answer that came twice would be known to be the stage's.

    Args:
        directory: run directory.
        stage: stage whose answers are reviewed.
        prompts: the prompts, in the order of [`choose`].
        ours: the stage's answers.
        others: the answers that they are compared with, by `previous` and `start`; real responses need no answers (`real`).
        against: all that the run compares answers with, in the same order for all iterations, so that each comparison has
            the same prompts in all of them.
        mode: how the answers were decoded: `sampled` or `greedy`.

    Returns:
        The assignment, and the data of the page. Answers that are the same text, but for white space at the ends, are left
        out of both.
    """
    pairs, identical = [], dict.fromkeys(others, 0)
    for number, (key, prompt) in enumerate(prompts.items()):
        name = against[number // STRATA % len(against)]  # a prompt of each quarter, in turn
        other = prompt.real if name == REAL_RESPONSE else others.get(name, {}).get(key)
        if name not in others or key not in ours or other is None:
            continue
        if ours[key].strip() == other.strip():
            identical[name] += 1
        else:
            pairs.append(AssignedPair(secrets.token_hex(6), key, name, secrets.choice(SIDES)))
    pairs.sort(key=lambda pair: pair.id)  # the identifiers are random
    assignment = Assignment(run_id(directory), stage, mode, "", pairs, identical)
    data = page_data(directory, assignment, prompts, ours, others)
    return replace(assignment, page=data["page"]), data


def page_data(
    directory: RunDirectory,
    assignment: Assignment,
    prompts: Mapping[str, HeldOutPrompt],
    ours: Texts,
    others: Mapping[str, Texts],
) -> dict[str, Any]:
    """Return what a page shows of the pairs of an assignment, as JSON. Arguments as for [`draw_sides`].

    Raises:
        RunDirectoryError: if an answer is missing.
    """
    shown = []
    for pair in assignment.pairs:
        try:
            prompt = prompts[pair.key]
            mine = ours[pair.key]
            other = prompt.real if pair.against == REAL_RESPONSE else others[pair.against][pair.key]
        except KeyError as error:
            raise RunDirectoryError(
                f"The answers to the prompt {pair.key!r}, which the review of {assignment.stage} shows, are not there any "
                f"more ({error})."
            ) from error
        left, right = (mine, other) if pair.side == SIDES[0] else (other, mine)
        turns = [{"role": role, **_shown_start(text)} for role, text in prompt_texts(prompt.prompt)]
        # White space at the ends would tell generated answers from real ones.
        left, right = left.strip(), right.strip()
        shown.append({"id": pair.id, "prompt": turns, "left": _shown_start(left), "right": _shown_start(right)})
    title, name = Stage(assignment.stage).label, directory.path.resolve().name
    data = {"format": PAGE_FORMAT, "run": assignment.run, "name": name, "title": title, "page": "", "pairs": shown}
    data = shown_data(data)
    return data | {"page": digest_of(data)}


def _shown_start(text: str) -> dict[str, Any]:
    start, left_out = cut(text, LONGEST)
    return {"text": start, "left_out": left_out}


def others_of(against: Sequence[str], opponent: Stage, start: Stage) -> dict[str, Stage | None]:
    """Return the stages that answers are compared with, by what `review_pairs` names; None for the real response.

    In the first iteration the previous model is the start; the two are then compared once.
    """
    found: dict[str, Stage | None] = {}
    for name in against:
        stage = {"previous": opponent, "start": start}.get(name)
        if stage is None or stage not in found.values():
            found[name] = stage
    return found
