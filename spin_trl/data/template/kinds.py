"""Kinds of conversations as written by a chat template, and the text-by-text comparison of rows with their kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .markers import ESCAPES, ConversationForm, Found, Slot, stripped


@dataclass(frozen=True)
class Split:
    """A rendered conversation of markers."""

    text: str
    found: list[Found]
    slots: list[Slot]
    start: int
    notes: frozenset[str]

    @property
    def end(self) -> int:
        """Position where the last text of the answer ends."""
        last = self.slots[-1].message
        return max(one.stop for one in self.found if self.slots[one.number].message == last)


@dataclass(frozen=True)
class Kind:
    """How a kind of conversation is rendered.

    Attributes:
        form: form that the template supports.
        options: further arguments of the template.
        segments: segments of the rendered conversation: text written by the template; slots, each with its escaping; and
            None where the answer starts.
        end: index, among the slots in `segments`, of the answer's last text.
        notes: notes that apply to every conversation of this kind.
        is_matchable: whether rows only differ from the kind's markers in their texts.
    """

    form: ConversationForm
    options: dict[str, Any]
    segments: list[str | tuple[int, str] | None]
    end: int
    notes: frozenset[str]
    is_matchable: bool


@dataclass(frozen=True)
class Span:
    """Position of a conversation's text in the rendered conversation.

    Attributes:
        slot: number of the text's slot.
        start: start of the text.
        stop: end of the text.
        is_stripped: whether white space around the text was stripped.
    """

    slot: int
    start: int
    stop: int
    is_stripped: bool


def segments_of(split: Split) -> tuple[list[str | tuple[int, str] | None], int]:
    """Split a rendered conversation of markers into segments (see [`Kind`]).

    Returns:
        The segments, and the index, among the slots in them, of the answer's last text.
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
        text: rendered conversation of the row.
        kind: kind of the conversation.
        slots: the row's own texts.

    Returns:
        The start of the answer and the position of each text; None if the text does not match the kind.
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
            if len(fitting) > 1:  # choose the one followed by the template's text
                behind = next((one for one in islice(kind.segments, number + 1, None) if isinstance(one, str)), "")
                fitting = [one for one in fitting if text.startswith(behind, place + len(one))] or fitting
            if not fitting:
                return None
            spans.append(Span(segment[0], place, place + len(fitting[0]), fitting[0] != variants[0]))
            place = spans[-1].stop
    return (start, spans) if place == len(text) else None


def _variants(slot: Slot, write: Callable[[str], str]) -> list[str]:
    """Return the ways in which a slot's text may be written."""
    return [write(one) for one in stripped(slot.value)] if isinstance(slot.value, str) else [json.dumps(slot.value)]
