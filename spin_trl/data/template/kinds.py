"""Kinds of conversations, as a chat template writes them, and rows that are compared with theirs, text by text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .markers import ESCAPES, ConversationForm, Found, Slot, stripped


@dataclass(frozen=True)
class Split:
    """A conversation of markers, rendered."""

    text: str
    found: list[Found]
    slots: list[Slot]
    start: int
    notes: frozenset[str]

    @property
    def end(self) -> int:
        """Where the last text of the answer ends."""
        last = self.slots[-1].message
        return max(one.stop for one in self.found if self.slots[one.number].message == last)


@dataclass(frozen=True)
class Kind:
    """How conversations of a kind are rendered.

    Attributes:
        form: in which the template understands them.
        options: further arguments of the template.
        segments: of the rendered conversation: what the template writes; slots, each with how it is written; and None where
            the answer starts.
        end: which of the slots in them is the answer's last text.
        notes: what is noticed about every conversation of this kind.
        is_matchable: whether a row differs from the kind's markers in nothing but its texts.
    """

    form: ConversationForm
    options: dict[str, Any]
    segments: list[str | tuple[int, str] | None]
    end: int
    notes: frozenset[str]
    is_matchable: bool


@dataclass(frozen=True)
class Span:
    """Where a text of a conversation stands in what it is rendered to.

    Attributes:
        slot: number of the text.
        start: of it.
        stop: of it.
        is_stripped: whether white space around it is missing.
    """

    slot: int
    start: int
    stop: int
    is_stripped: bool


def segments_of(split: Split) -> tuple[list[str | tuple[int, str] | None], int]:
    """A rendered conversation of markers as what the template writes, and slots, and None where the answer starts.

    Returns:
        The segments, and which of the slots in them is the last of the answer's.
    """
    segments: list[str | tuple[int, str] | None] = []
    place, last, has_begun = 0, split.slots[-1].message, False
    for one in split.found:
        if not has_begun and split.start <= one.start:
            segments += [split.text[place : split.start], None]
            place, has_begun = split.start, True
        if place < one.start:
            segments.append(split.text[place : one.start])
        segments.append((one.number, one.escape or "as it is"))
        place = one.stop
    segments.append(split.text[place:])
    return segments, max(i for i, one in enumerate(split.found) if split.slots[one.number].message == last)


def match(text: str, kind: Kind, slots: Sequence[Slot]) -> tuple[int, list[Span]] | None:
    """Compare a row's rendered text with its kind.

    Args:
        text: the row's conversation, rendered.
        kind: of the conversation.
        slots: the row's own texts.

    Returns:
        Where the answer starts, and where each text stands. None: it reads otherwise.
    """
    place = start = 0
    spans: list[Span] = []
    for number, segment in enumerate(kind.segments):
        if segment is None:
            start = place
        elif isinstance(segment, str):
            if not text.startswith(segment, place):
                return None
            place += len(segment)
        else:
            variants = _variants(slots[segment[0]], ESCAPES[segment[1]])
            fitting = [one for one in variants if text.startswith(one, place)]
            if len(fitting) > 1:  # the one behind which the template goes on
                behind = next((one for one in islice(kind.segments, number + 1, None) if isinstance(one, str)), "")
                fitting = [one for one in fitting if text.startswith(behind, place + len(one))] or fitting
            if not fitting:
                return None
            spans.append(Span(segment[0], place, place + len(fitting[0]), fitting[0] != variants[0]))
            place = spans[-1].stop
    return (start, spans) if place == len(text) else None


def _variants(slot: Slot, write: Callable[[str], str]) -> list[str]:
    """What may stand for a slot's text."""
    return [write(one) for one in stripped(slot.value)] if isinstance(slot.value, str) else [json.dumps(slot.value)]
