"""Which held-out prompts are shown with their answers, and how: real beside generated, marked where they differ.

A report stays small however many samples there are: some prompts are chosen evenly, long texts are cut, and what does not
fit into the budget is left out. What was left out is said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, TypeVar

from ...counts import counted
from ...errors import visible
from ..text import cut
from .diff import Part, compare_texts

Item = TypeVar("Item")

FAIR, WON, LOST = 20, 10, 10
"""Prompts that are shown: evenly from all, from those on which the model is better than the start, and from those where
it is worse. Without scores the even ones take all the places."""

LONGEST_SHOWN, LONGEST_OTHER = 3_000, 800
"""Characters of a text, and of other models' answers, that are shown."""

BUDGET = 1_500_000
"""Bytes of the page that samples may take."""

MOST_OTHERS = 12
"""Other models whose answers are shown to a prompt."""

_MARKUP = 40
"""Bytes, about, that surround a part of a text on the page."""

_ENDED = {"eos": "ended by itself", "length": "cut at the length limit"}


@dataclass(frozen=True)
class Text:
    """A text on the page: what of it is shown, in parts, and how many characters are not."""

    parts: Sequence[Part]
    left_out: int = 0


@dataclass(frozen=True)
class ShownAnswer:
    """A model's answer.

    Attributes:
        model: the stage's name in words.
        text: what it answered.
        notes: its score, and how it ended.
    """

    model: str
    text: Text
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Sample:
    """A held-out prompt with its answers.

    Attributes:
        number: its place among all, from 1.
        prompt: texts, each with who said it; "" where nobody is named.
        real: the human response.
        answer: of the model that is shown.
        is_same: whether both are the same text.
        is_marked_whole: whether they were compared to their ends.
        others: answers of other models, of `others_total`.
    """

    number: int
    prompt: Sequence[tuple[str, Text]]
    real: Text
    answer: ShownAnswer
    is_same: bool
    is_marked_whole: bool
    others: Sequence[ShownAnswer] = ()
    others_total: int = 0


@dataclass(frozen=True)
class Section:
    """Prompts to show under a heading, and of how many they were chosen.

    Attributes:
        heading: what they have in common.
        keys: of the prompts.
        total: prompts of this kind.
        samples: those of the prompts that fit on the page, with their answers.
    """

    heading: str
    keys: Sequence[str]
    total: int
    samples: Sequence[Sample] = ()


@dataclass(frozen=True)
class Shown:
    """All samples of a report.

    Attributes:
        model: name in words of the stage whose answers stand beside the real ones.
        path: where all of its samples are, from the run directory.
        total: samples there are.
        sections: what is shown of them.
    """

    model: str
    path: str
    total: int
    sections: Sequence[Section] = ()

    @property
    def summary(self) -> str:
        """How much is shown of what there is."""
        count = sum(len(section.samples) for section in self.sections)
        if count == self.total:
            return f"All {counted(count, 'sample')} of {self.path}."
        return f"{count:,} of {counted(self.total, 'sample')}; all of them are in {self.path}."


def choose_samples(keys: Sequence[str], ours: Mapping[str, float], starts: Mapping[str, float]) -> list[Section]:
    """Choose prompts: evenly from all, and, where there are scores, from those that went better or worse than the
    start's.

    Args:
        keys: of all prompts with samples, in order.
        ours: score of the model that is shown, by key.
        starts: the start's; empty if the model is the start, or there are none.
    """
    won = [key for key in keys if key in ours and key in starts and ours[key] > starts[key]]
    lost = [key for key in keys if key in ours and key in starts and ours[key] < starts[key]]
    fair = evenly(keys, FAIR if won or lost else FAIR + WON + LOST)
    left = set(keys) - set(fair)  # nothing is shown twice
    choices = [
        Section("Spread evenly over all prompts", fair, len(keys)),
        Section("Better than the start’s answer", evenly([key for key in won if key in left], WON), len(won)),
        Section("Worse than the start’s answer", evenly([key for key in lost if key in left], LOST), len(lost)),
    ]
    return [choice for choice in choices if choice.keys]


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """So many items, evenly spread; all, if there are no more."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def sections(
    choices: Sequence[Section],
    places: Mapping[str, int],
    stages: Mapping[str, Mapping[str, Mapping[str, Any]]],
    shown: str,
    budget: int = BUDGET,
    unread: int = 0,
) -> list[Section]:
    """Lay out the chosen prompts, as many as fit.

    Args:
        choices: of [`choose_samples`].
        places: of the prompts among all, from 1, by key.
        stages: samples by key, by the stages' names in words; the start first.
        shown: the stage whose answers stand beside the real ones.
        budget: bytes that the samples may take.
        unread: further models with answers, of which none are shown.
    """
    found, left = [], budget
    for choice in choices:
        samples = []
        for key in choice.keys:
            answers = {name: of_stage[key] for name, of_stage in stages.items() if key in of_stage}
            sample = sample_of(places[key], answers, shown, unread)
            size = _bytes_of_sample(sample)
            if size <= left:
                left -= size
                samples.append(sample)
        if samples:
            found.append(replace(choice, samples=samples))
    return found


def sample_of(number: int, of_stages: Mapping[str, Mapping[str, Any]], shown: str, unread: int = 0) -> Sample:
    """A prompt with its answers.

    Args:
        number: its place among all, from 1.
        of_stages: lines of `samples.jsonl`, by the stages' names in words.
        shown: the stage whose answer stands beside the real one.
        unread: further models with answers, of which none are shown.
    """
    row = of_stages[shown]
    whole_real, whole_generated = _as_text(row.get("real")), _as_text(row.get("generated"))
    real, real_left = cut(whole_real, LONGEST_SHOWN)
    generated, generated_left = cut(whole_generated, LONGEST_SHOWN)
    real_parts, generated_parts, is_whole = compare_texts(real, generated)
    others = [(name, other) for name, other in of_stages.items() if name != shown]
    return Sample(
        number=number,
        prompt=[(role, _without_marks(text, LONGEST_SHOWN)) for role, text in _turns(row.get("prompt"))],
        real=Text(real_parts, real_left),
        answer=ShownAnswer(shown, Text(generated_parts, generated_left), notes_of(row)),
        is_same=whole_real == whole_generated,
        is_marked_whole=is_whole and not real_left and not generated_left,
        others=[
            ShownAnswer(name, _without_marks(_as_text(other.get("generated")), LONGEST_OTHER), notes_of(other))
            for name, other in evenly(others, MOST_OTHERS)
        ],
        others_total=len(others) + unread,
    )


def written_score(score: Any) -> str:
    """A score: a number, or numbers with names."""
    if isinstance(score, Mapping):
        return ", ".join(f"{name} {written_score(value)}" for name, value in score.items())
    if isinstance(score, int | float) and math.isfinite(score):
        return f"{score:.4g}"
    return "none"


def notes_of(row: Mapping[str, Any]) -> list[str]:
    """A sample's score, and how its answer ended."""
    reason, score = row.get("finish_reason"), row.get("score")
    notes = [] if score is None or score == {} else [f"score: {written_score(score)}"]
    return notes + ([_ENDED.get(str(reason), str(reason))] if reason is not None else [])


def _without_marks(text: str, length: int) -> Text:
    start, left_out = cut(text, length)
    return Text([Part(start)], left_out)


def _turns(prompt: Any) -> list[tuple[str, str]]:
    """A prompt as texts, each with who said it; of long conversations the last turns."""
    if not isinstance(prompt, list):
        return [("", _as_text(prompt))]
    turns = []
    for message in prompt:
        if not isinstance(message, Mapping):
            turns.append(("", _as_text(message)))
            continue
        further = {name: value for name, value in message.items() if name not in ("role", "content") and value}
        text = "\n".join([_content_as_text(message.get("content")), *([_as_text(further)] if further else [])])
        turns.append((str(message.get("role") or ""), text))
    left_out = len(turns) - _MOST_TURNS
    return turns if left_out <= 0 else [("", f"({counted(left_out, 'earlier turn')} left out)"), *turns[-_MOST_TURNS:]]


_MOST_TURNS = 8


def _content_as_text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(
            str(part["text"]) if isinstance(part, Mapping) and "text" in part else _as_text(part) for part in content
        )
    return _as_text(content)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _bytes_of_sample(sample: Sample) -> int:
    """About how many bytes of the page a sample takes."""
    texts = [text for _, text in sample.prompt] + [answer.text for answer in (sample.answer, *sample.others)]
    parts = [part for text in (sample.real, *texts) for part in text.parts]
    written = sum(len(escape(visible(part.text)).encode()) for part in parts)
    # Half a kilobyte of what surrounds a sample, and as much for an answer.
    return written + _MARKUP * len(parts) + 500 * (1 + len(sample.others))
