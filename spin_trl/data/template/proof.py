"""Whether a chat template has written every text of a conversation, as it is and in its place."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ...errors import TemplateError
from .. import notes
from .markers import CALL, CONTENT, THINKING, Found, Message, Slot

_RESULT_ROLES = ("tool", "ipython", "function")


class FormError(TemplateError):
    """Why a form of a conversation can't be used, and how bad that is."""

    def __init__(self, message: str, badness: float) -> None:
        super().__init__(message)
        self.badness = badness


def check(text: str, found: Sequence[Found], expected: Sequence[Slot], messages: Sequence[Message]) -> set[str]:
    """What is noticed of a rendered conversation of markers.

    Raises:
        FormError: a text is missing, is written in another way, or stands in another place.
    """
    slots = {slot.number: slot for slot in expected}
    last = len(messages) - 1
    noticed: set[str] = set()
    problems: list[str] = []
    for slot in expected:
        places = [one for one in found if one.number == slot.number]
        if not places:
            if slot.field == THINKING and slot.message != last:
                noticed.add(notes.EARLIER_THINKING)
            elif slot.is_required:
                problems.append(f"leaves out {_described(slot, last)}")
        elif any(not _is_known(one, slot, text) for one in places):
            problems.append(f"does not write {_described(slot, last)} as it is")
        elif slot.message == last and slot.field in (CONTENT, THINKING) and len(places) > 1:
            problems.append(f"writes {_described(slot, last)} more than once")
    # Templates that put the system's message before all others, or before the last, do so at inference, too.
    order = [slots[one.number].message for one in found if one.number in slots and slots[one.number].is_required]
    # Tools answer within the turn that calls them, before or after its text.
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
    """Whether a text stands there as it is, or, in calls and results, as JSON."""
    if slot.is_key and text[: one.start].endswith("'") and text.startswith("':", one.stop):
        return False  # a dict as Python prints it
    if slot.field == CALL or not slot.is_required:
        return one.escape is not None  # the strings of a call may be Python's: some models call tools in it
    if slot.role in _RESULT_ROLES:
        return one.escape not in (None, "Python")
    return one.escape == "as it is"


def _described(slot: Slot, last: int) -> str:
    what = {CONTENT: "the content", THINKING: "the thinking", CALL: "a tool call"}.get(slot.field, f"`{slot.field}`")
    return f"{what} of message {slot.message} (role {slot.role!r}{', the answer' if slot.message == last else ''})"
