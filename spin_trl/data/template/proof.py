"""Verify that a chat template writes every text of a conversation unchanged and in order, and find where the answer starts.

A generation must start at the same position.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from ...errors import TemplateError
from .. import notes
from .markers import CALL, CONTENT, THINKING, Found, Message, Slot

_RESULT_ROLES = ("tool", "ipython", "function")
_TURN_SCAFFOLD = re.compile(r"(?:\s|<[^<>\s]*>|model|assistant)*")
_THINKING_SCAFFOLD = re.compile(
    r"(?:\s|<[^<>]*(?:think|thought|reason)[^<>]*>|\[/?think\]|<\|?channel\|?>(?:analysis|thought)?)*", re.IGNORECASE
)


class FormError(TemplateError):
    """A form of a conversation can't be used; `badness` ranks the reasons."""

    def __init__(self, message: str, badness: float) -> None:
        super().__init__(message)
        self.badness = badness


def check(text: str, found: Sequence[Found], expected: Sequence[Slot], messages: Sequence[Message]) -> set[str]:
    """Check a rendered conversation of markers, and return notes on it.

    Raises:
        FormError: if a text is missing, changed, or in another position.
    """
    slots = {slot.number: slot for slot in expected}
    last = len(messages) - 1
    noticed: set[str] = set()
    problems: list[str] = []
    places_of: dict[int, list[Found]] = {}
    for one in found:
        places_of.setdefault(one.number, []).append(one)
    for slot in expected:
        places = places_of.get(slot.number, [])
        if not places:
            if slot.field == THINKING and slot.message != last:
                noticed.add(notes.EARLIER_THINKING)
            elif slot.is_required:
                problems.append(f"leaves out {_described(slot, last)}")
        elif any(not _is_known(one, slot, text) for one in places):
            problems.append(f"changes {_described(slot, last)}")
        elif slot.message == last and slot.field in (CONTENT, THINKING) and len(places) > 1:
            problems.append(f"writes {_described(slot, last)} more than once")
    # Templates that move the system message to the beginning, or before the last message, do so at inference, too.
    order = [slots[one.number].message for one in found if one.number in slots and slots[one.number].is_required]
    # Tool results are part of the turn that calls the tool, before or after its text.
    begins = (number == 0 or not is_result(message) for number, message in enumerate(messages))
    groups = list(itertools.accumulate(begins))
    order = [groups[number] for number in order if messages[number].get("role") not in ("system", "developer")]
    if not problems and order != sorted(order):
        problems.append("writes the messages in another order")
    if problems:
        seen = "would not see it" if problems[0].startswith("leaves out") else "would see something else"
        advice = "Use another chat template, or leave such rows out."
        raise FormError(f"The chat template {problems[0]}, so the model {seen}. {advice}", len(problems))
    return noticed


def is_result(message: Message) -> bool:
    return message.get("role") in _RESULT_ROLES


def _is_known(one: Found, slot: Slot, text: str) -> bool:
    """Return whether a text is written unchanged or, in calls and results, as JSON."""
    if slot.is_key and text[: one.start].endswith("'") and text.startswith("':", one.stop):
        return False  # a dict printed by Python
    if slot.field == CALL or not slot.is_required:
        return one.escape is not None  # strings in a call may be in Python's notation, in which some models call tools
    if slot.role in _RESULT_ROLES:
        return one.escape not in (None, "Python")
    return one.escape == "as it is"


def _described(slot: Slot, last: int) -> str:
    what = {CONTENT: "the content", THINKING: "the thinking", CALL: "a tool call"}.get(slot.field, f"`{slot.field}`")
    return f"{what} of message {slot.message} (role {slot.role!r}{', the answer' if slot.message == last else ''})"


def start_of_answer(text: str, before: str, head: str | None, *, is_behind_result: bool) -> tuple[int, bool]:
    """Find where the answer starts in a rendered conversation.

    Args:
        text: conversation with its answer.
        before: conversation without its answer, up to where a generation starts.
        head: text before a plain-text answer; None if unknown.
        is_behind_result: whether the answer follows a tool's result.

    Returns:
        The position, and whether only recorded answers start there, not generations.

    Raises:
        FormError: if a generation starts differently, so that a recorded answer can't take its place.
    """
    if head is not None and not text.startswith(head):
        head = None
    if text.startswith(before):
        # Text that the template writes before every answer (an empty thinking block, for instance) belongs to the prompt.
        # A single space does not: tokenizers join it to the answer's first word, and so do generations.
        if head is not None and head.startswith(before) and head[len(before) :].strip(" "):
            return len(head), False
        return len(before), False
    # After a tool's result, some templates close the turn for a generation, while a recorded answer continues it.
    scaffolds = (_THINKING_SCAFFOLD, _TURN_SCAFFOLD) if is_behind_result else (_THINKING_SCAFFOLD,)
    if head is not None and any(_differ_alone_in(one, before, head) for one in scaffolds):
        return len(head), True
    rendered = text if head is None else head
    common = _common(before, rendered)
    raise FormError(
        f"The chat template starts a generation with {_shown(before[common:])!r}, but starts a recorded answer with "
        f"{_shown(rendered[common:])!r}. Use another chat template, or plain `prompt` and `completion` text.",
        0.75,
    )


def size_alike(one: str, other: str) -> int:
    """Return the length of the common prefix of two texts."""
    size = min(len(one), len(other))
    return next((i for i in range(size) if one[i] != other[i]), size)


def _common(one: str, other: str) -> int:
    """Return the length of the common prefix of two texts, not counting an incomplete tag at its end."""
    common = size_alike(one, other)
    opened = one.rfind("<", 0, common)
    return opened if opened > one.rfind(">", 0, common) else common


def _differ_alone_in(scaffold: re.Pattern[str], before: str, head: str) -> bool:
    """Return whether the starts of a generation and of a recorded answer only differ in scaffolding."""
    common = _common(before, head)
    return all(scaffold.fullmatch(rest) for rest in (before[common:], head[common:]))


def _shown(text: str) -> str:
    """Return the beginning of a rendered text, with its markers replaced by dots."""
    return re.sub(r"Qz\d{5}zQ(?:.*?Qy\d{5}yQ)?", "...", text, flags=re.DOTALL)[:60]
