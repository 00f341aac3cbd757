"""Choice and layout of the report's held-out samples: real and generated responses side by side, with differences marked.

The report stays small for any number of samples: prompts are chosen evenly, long texts are truncated, and samples beyond the
budget are left out. The page states how much was left out.
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
"""Numbers of prompts shown: evenly chosen from all, from those on which the model is better than the start, and from those
on which it is worse. Without scores, all of them are evenly chosen."""

LONGEST_SHOWN, LONGEST_OTHER = 3_000, 800
"""Maximum number of characters shown of a text, and of another model's answer."""

BUDGET = 1_500_000
"""Maximum number of bytes that the samples take on the page."""

MOST_OTHERS = 12
"""Maximum number of other models whose answers to a prompt are shown."""

_MARKUP = 40
"""Approximate number of bytes of markup around each part of a text."""

_ENDED = {"eos": "ended with EOS", "length": "truncated at the length limit"}


@dataclass(frozen=True)
class Text:
    """A text on the page: the parts shown, and the number of characters left out."""

    parts: Sequence[Part]
    left_out: int = 0


@dataclass(frozen=True)
class ShownAnswer:
    """A model's answer.

    Attributes:
        model: label of the stage.
        text: text of the answer.
        notes: the answer's score, and how it ended.
    """

    model: str
    text: Text
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Sample:
    """A held-out prompt with its answers.

    Attributes:
        number: position among all samples, from 1.
        prompt: texts of the prompt, each with its role; "" if it has none.
        real: human response.
        answer: answer of the model that is shown.
        is_same: whether both are the same text.
        is_marked_whole: whether both were compared to their ends.
        others: answers of other models that are shown.
        others_total: number of other models with answers.
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
    """Prompts to show under a heading, and the number that they were chosen from.

    Attributes:
        heading: description of what the prompts have in common.
        keys: keys of the prompts.
        total: number of prompts of this kind.
        samples: samples for those of the prompts that fit on the page.
    """

    heading: str
    keys: Sequence[str]
    total: int
    samples: Sequence[Sample] = ()


@dataclass(frozen=True)
class Shown:
    """All samples of a report.

    Attributes:
        model: label of the stage whose answers are shown next to the real ones.
        path: path of the file with all of its samples, relative to the run directory.
        total: number of samples in the file.
        sections: samples that are shown.
    """

    model: str
    path: str
    total: int
    sections: Sequence[Section] = ()

    @property
    def summary(self) -> str:
        """A sentence on how many of the samples are shown."""
        count = sum(len(section.samples) for section in self.sections)
        if count == self.total:
            return f"All {counted(count, 'sample')} in {self.path} are shown."
        return f"{count:,} of {counted(self.total, 'sample')} are shown; all of them are in {self.path}."


def choose_samples(keys: Sequence[str], ours: Mapping[str, float], starts: Mapping[str, float]) -> list[Section]:
    """Choose prompts to show: evenly from all, and, if there are scores, from those where the answer is better or worse than
    the start's.

    Args:
        keys: keys of all prompts with samples, in order.
        ours: scores of the model that is shown, by key.
        starts: scores of the start, by key; empty if the model is the start, or there are none.
    """
    won = [key for key in keys if key in ours and key in starts and ours[key] > starts[key]]
    lost = [key for key in keys if key in ours and key in starts and ours[key] < starts[key]]
    fair = evenly(keys, FAIR if won or lost else FAIR + WON + LOST)
    left = set(keys) - set(fair)  # no sample is shown twice
    choices = [
        Section("Evenly chosen from all prompts", fair, len(keys)),
        Section("Better than the start’s answer", evenly([key for key in won if key in left], WON), len(won)),
        Section("Worse than the start’s answer", evenly([key for key in lost if key in left], LOST), len(lost)),
    ]
    return [choice for choice in choices if choice.keys]


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return `count` evenly spaced items, or all of them if there are fewer."""
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
    """Lay out as many of the chosen prompts as fit.

    Args:
        choices: result of [`choose_samples`].
        places: positions of the prompts among all, from 1, by key.
        stages: samples by key, by the labels of the stages; the start first.
        shown: label of the stage whose answers are shown next to the real ones.
        budget: maximum number of bytes that the samples may take.
        unread: number of further models whose answers are not shown.
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
    """Return a prompt with its answers.

    Args:
        number: position among all samples, from 1.
        of_stages: lines of `samples.jsonl`, by the labels of the stages.
        shown: label of the stage whose answer is shown next to the real one.
        unread: number of further models whose answers are not shown.
    """
    row = of_stages[shown]
    whole_real, whole_generated = _as_text(row.get("real")), _as_text(row.get("generated"))
    real, real_left = cut(whole_real, LONGEST_SHOWN)
    generated, generated_left = cut(whole_generated, LONGEST_SHOWN)
    real_parts, generated_parts, is_whole = compare_texts(real, generated)
    others = [(name, other) for name, other in of_stages.items() if name != shown]
    return Sample(
        number=number,
        prompt=[(role, _without_marks(text, LONGEST_SHOWN)) for role, text in prompt_texts(row.get("prompt"))],
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
    """Format a score, which is a number or a mapping of named numbers."""
    if isinstance(score, Mapping):
        return ", ".join(f"{name} {written_score(value)}" for name, value in score.items())
    if isinstance(score, int | float) and math.isfinite(score):
        return f"{score:.4g}"
    return "none"


def notes_of(row: Mapping[str, Any]) -> list[str]:
    """Return notes on a sample's answer: its score, and how it ended."""
    reason, score = row.get("finish_reason"), row.get("score")
    notes = [] if score is None or score == {} else [f"score: {written_score(score)}"]
    return notes + ([_ENDED.get(str(reason), str(reason))] if reason is not None else [])


def _without_marks(text: str, length: int) -> Text:
    start, left_out = cut(text, length)
    return Text([Part(start)], left_out)


def prompt_texts(prompt: Any) -> list[tuple[str, str]]:
    """Return a prompt as texts, each with its role. Of a long conversation, only the last turns are returned."""
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
    """Estimate how many bytes a sample takes on the page."""
    texts = [text for _, text in sample.prompt] + [answer.text for answer in (sample.answer, *sample.others)]
    parts = [part for text in (sample.real, *texts) for part in text.parts]
    written = sum(len(escape(visible(part.text)).encode()) for part in parts)
    # About half a kilobyte of markup for the sample, and as much for each further answer.
    return written + _MARKUP * len(parts) + 500 * (1 + len(sample.others))
