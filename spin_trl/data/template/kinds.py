"""Kinds of conversations, as a chat template writes them, and rows that are compared with theirs, text by text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
        end: number of the segment that is the answer's last text.
        notes: what is noticed about every conversation of this kind.
        is_matchable: whether a row differs from the kind's markers in nothing but its texts.
    """

    form: ConversationForm
    options: dict[str, Any]
    segments: list[str | tuple[int, str] | None]
    end: int
    notes: frozenset[str]
    is_matchable: bool


def segments_of(split: Split) -> tuple[list[str | tuple[int, str] | None], int]:
    """A rendered conversation of markers as what the template writes, and slots, and None where the answer starts."""
    segments: list[str | tuple[int, str] | None] = []
    place, end, last = 0, 0, split.slots[-1].message
    for one in split.found:
        if None not in segments and split.start <= one.start:
            segments += [split.text[place : split.start], None]
            place = split.start
        if place < one.start:
            segments.append(split.text[place : one.start])
        segments.append((one.number, one.escape or "as it is"))
        place = one.stop
        if split.slots[one.number].message == last:
            end = len(segments) - 1
    segments.append(split.text[place:])
    return segments, end


def match(text: str, kind: Kind, slots: Sequence[Slot]) -> tuple[int, int, bool] | None:
    """Compare a row's rendered text with its kind.

    Args:
        text: the row's conversation, rendered.
        kind: of the conversation.
        slots: the row's own texts.

    Returns:
        Where the answer starts and ends, and whether white space around a text is missing. None: it reads otherwise.
    """
    place = start = end = 0
    is_stripped = False
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
                behind = next((one for one in kind.segments[number + 1 :] if isinstance(one, str)), "")
                fitting = [one for one in fitting if text.startswith(behind, place + len(one))] or fitting
            if not fitting:
                return None
            is_stripped = is_stripped or fitting[0] != variants[0]
            place += len(fitting[0])
            if number == kind.end:
                end = place
    return (start, end, is_stripped) if place == len(text) else None


def _variants(slot: Slot, write: Callable[[str], str]) -> list[str]:
    """What may stand for a slot's text."""
    return [write(one) for one in stripped(slot.value)] if isinstance(slot.value, str) else [json.dumps(slot.value)]
