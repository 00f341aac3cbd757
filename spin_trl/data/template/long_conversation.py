"""Get all answers of a long conversation from a single rendering of the whole conversation.

The time to render each answer's prompt separately grows with the square of the number of answers. Most templates write a
conversation of plain messages turn by turn, so a shorter conversation is the beginning of a longer one. Since this is not
guaranteed, it is verified for each conversation: the first answers, the last one, and others at doubling distances are also
rendered separately. If one of them differs, all answers are rendered separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from .. import notes
from .markers import Message
from .rendering import ConversationRenderer, Options, Rendered, Traced

FEW_ANSWERS = 8
"""Number of answers up to which each is rendered separately."""


def render_answers(
    renderer: ConversationRenderer, messages: list[Message], positions: Sequence[int], options: Options
) -> Answers | None:
    """Render the answers of a conversation with the same results as [`ConversationRenderer.render`].

    Args:
        renderer: renderer of the chat template.
        messages: messages of the conversation, up to the last answer.
        positions: numbers of the answers' messages, in order.
        options: `tools` and other arguments of the template.

    Returns:
        The answers; None if each has to be rendered separately.

    Raises:
        TemplateError, DataError: as in [`ConversationRenderer.render`], which would refuse the conversation, too.
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
    """All answers of a rendered conversation, assuming the same text before and after each as for a known answer.

    Args:
        traced: rendered conversation.
        messages: messages of the conversation.
        position: number of the known answer's message.
        known: known answer.
    """

    def __init__(self, traced: Traced, messages: list[Message], position: int, known: Rendered) -> None:
        self.traced, self.messages = traced, messages
        self.lead, self.tail = traced.spans[position].start - known.start, known.text[known.end :]
        self.notes = known.notes - {notes.SPACE}
        self.is_stripped = list(accumulate((span.is_stripped for span in traced.spans), max))

    @property
    def whole(self) -> str:
        """Text of the whole conversation."""
        return self.traced.text

    def at(self, position: int) -> Rendered:
        """Return the answer in a message, as if the conversation ended there."""
        span = self.traced.spans[position]
        found = self.notes | {notes.SPACE} if self.is_stripped[position] else self.notes
        text = self.traced.text[: span.stop] + self.tail
        return Rendered(text, span.start - self.lead, span.stop, (self.messages[position]["content"],), found)


def _is_plain(message: Message) -> bool:
    """Return whether a message is a single text in which templates do not look for thinking."""
    content = message.get("content")
    return (
        message.keys() == {"role", "content"}
        and isinstance(content, str)
        and bool(content.strip())
        and ("</think>" not in content)
    )
