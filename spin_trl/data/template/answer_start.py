"""Where an answer starts in a rendered conversation: a generation must start at the same place."""

from __future__ import annotations

import re

from .proof import FormError

_TURN_SCAFFOLD = re.compile(r"(?:\s|<[^<>\s]*>|model|assistant)*")
_THINKING_SCAFFOLD = re.compile(
    r"(?:\s|<[^<>]*(?:think|thought|reason)[^<>]*>|\[/?think\]|<\|?channel\|?>(?:analysis|thought)?)*", re.IGNORECASE
)


def start_of_answer(text: str, before: str, head: str | None, *, is_behind_result: bool) -> tuple[int, bool]:
    """Find where the answer starts in a rendered conversation.

    Args:
        text: the conversation with its answer.
        before: the conversation without its answer, up to where a generation starts.
        head: what stands before an answer that is nothing but text; None: that can't be told.
        is_behind_result: whether the answer follows a tool's result.

    Returns:
        The place, and whether only recorded answers start there, not generations.

    Raises:
        FormError: a generation starts in another way, so a recorded answer can't stand in its place.
    """
    if head is not None and not text.startswith(head):
        head = None
    if text.startswith(before):
        # What the template puts before every answer (an empty thinking block, say) belongs to the prompt.
        # A mere space does not: tokenizers join it to the answer's first word, and so do generations.
        if head is not None and head.startswith(before) and head[len(before) :].strip(" "):
            return len(head), False
        return len(before), False
    # Behind a tool's result, templates close a turn for a generation that a recorded answer goes on with, or not.
    scaffolds = (_THINKING_SCAFFOLD, _TURN_SCAFFOLD) if is_behind_result else (_THINKING_SCAFFOLD,)
    if head is not None and any(_differ_alone_in(one, before, head) for one in scaffolds):
        return len(head), True
    rendered = text if head is None else head
    common = _common(before, rendered)
    raise FormError(
        f"The chat template starts a generation with {_shown(before[common:])!r}, but a recorded answer with "
        f"{_shown(rendered[common:])!r}. Use another chat template, or plain `prompt` and `completion` text.",
        0.75,
    )


def size_alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    size = min(len(one), len(other))
    return next((i for i in range(size) if one[i] != other[i]), size)


def _common(one: str, other: str) -> int:
    """The same, without half a tag."""
    common = size_alike(one, other)
    opened = one.rfind("<", 0, common)
    return opened if opened > one.rfind(">", 0, common) else common


def _differ_alone_in(scaffold: re.Pattern[str], before: str, head: str) -> bool:
    """Whether a generation's start and a recorded answer's differ in scaffolding, and in nothing else."""
    common = _common(before, head)
    return all(scaffold.fullmatch(rest) for rest in (before[common:], head[common:]))


def _shown(text: str) -> str:
    """The beginning of a rendered text, with dots for its markers."""
    return re.sub(r"Qz\d{5}zQ(?:.*?Qy\d{5}yQ)?", "...", text, flags=re.DOTALL)[:60]
