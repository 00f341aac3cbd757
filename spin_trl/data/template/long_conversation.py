"""All answers of a long conversation, from one rendering of the whole.

To render each answer's prompt by itself takes a time that grows with the square of the number of answers. Most templates
write a conversation of plain messages turn by turn, so a shorter one is the beginning of a longer one. A template need not,
so that is proved for each conversation: the first answers, the last one, and others at distances that double are rendered by
themselves, too. Where one of them differs, all are rendered by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from .. import notes
from .markers import Message
from .rendering import ConversationRenderer, Options, Rendered, Traced

FEW_ANSWERS = 8
"""Answers that are rendered each by itself."""


def render_answers(
    renderer: ConversationRenderer, messages: list[Message], positions: Sequence[int], options: Options
) -> Answers | None:
    """The answers of a conversation, each as [`ConversationRenderer.render`] renders it.

    Args:
        renderer: of the chat template.
        messages: of the conversation, up to the last answer.
        positions: numbers of the answers' messages, in order.
        options: `tools`, and other arguments of the template.

    Returns:
        None: they have to be rendered each by itself.

    Raises:
        TemplateError, DataError: as [`ConversationRenderer.render`], of a conversation that would be refused there, too.
    """
    if len(positions) <= FEW_ANSWERS or not all(map(_is_plain, messages)):
        return None
    traced = renderer.trace(messages, options)
    proved = {0, 1, 2, len(positions) - 1} | {2**power for power in range(2, len(positions).bit_length() - 1)}
    alone = {(p := positions[number]): renderer.render(messages[:p], messages[p], options) for number in proved}
    if traced is None:
        return None
    answers = Answers(traced, messages, positions[1], alone[positions[1]])
    return answers if all(answers.at(position) == one for position, one in alone.items()) else None


class Answers:
    """All answers of a rendered conversation, with the same text before and behind each as a known one has.

    Args:
        traced: the conversation.
        messages: of it.
        position: number of the known answer's message.
        known: the known answer.
    """

    def __init__(self, traced: Traced, messages: list[Message], position: int, known: Rendered) -> None:
        self.traced, self.messages = traced, messages
        self.lead, self.tail = traced.spans[position].start - known.start, known.text[known.end :]
        self.notes = known.notes - {notes.SPACE}
        self.is_stripped = list(accumulate((span.is_stripped for span in traced.spans), max))

    @property
    def whole(self) -> str:
        """The whole conversation."""
        return self.traced.text

    def at(self, position: int) -> Rendered:
        """The answer that is a message's, as if the conversation ended there."""
        span = self.traced.spans[position]
        found = self.notes | {notes.SPACE} if self.is_stripped[position] else self.notes
        text = self.traced.text[: span.stop] + self.tail
        return Rendered(text, span.start - self.lead, span.stop, (self.messages[position]["content"],), found)


def _is_plain(message: Message) -> bool:
    """Whether a message is one text, which a template does not look into for thinking."""
    content = message.get("content")
    return (
        message.keys() == {"role", "content"}
        and isinstance(content, str)
        and bool(content.strip())
        and ("</think>" not in content)
    )
