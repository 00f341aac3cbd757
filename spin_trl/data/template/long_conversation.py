"""All answers of a long conversation, from one rendering and one tokenisation of the whole.

To render each answer's prompt by itself takes a time that grows with the square of the number of answers. Most templates
write a conversation of plain messages turn by turn, so a shorter one is the beginning of a longer one. A template need not,
so that is proved for each conversation: the first answers, the last one, and others at distances that double are rendered by
themselves, too. Where one of them differs, all are rendered by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

from transformers import PreTrainedTokenizerBase

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


class GrowingIds:
    """Ids of texts, each of which begins as the one before.

    A fast tokenizer takes the tokens that were added to its vocabulary out of a text first, and splits what is between them
    piece by piece. So what stands before such a token is split as if nothing followed, and is not split again.

    Args:
        tokenizer: of the texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values() if tokenizer.is_fast else []
        # A token that takes the white space around it, or is searched in normalised text, does not end what is before it.
        exact = [
            one.content
            for one in added
            if one.special and not (one.lstrip or one.rstrip or one.single_word or one.normalized)
        ]
        self._added = re.compile("|".join(map(re.escape, sorted(exact, key=len, reverse=True))) or "(?!)")
        self._text = ""
        self._ids: list[int] = []

    def __call__(self, text: str) -> list[int]:
        rest = self._rest(text)
        return [*self._ids, *rest]

    def count(self, text: str) -> int:
        """How many ids a text has."""
        rest = self._rest(text)
        return len(self._ids) + len(rest)

    def is_exact(self, text: str) -> bool:
        """Whether a text's ids are those of its pieces, each from an added token to the next."""
        places = [0, *(match.start() for match in self._added.finditer(text) if match.start()), len(text)]
        pieces = [text[start:stop] for start, stop in pairwise(places)]
        split = self.tokenizer(pieces, add_special_tokens=False)["input_ids"]
        return list(chain.from_iterable(split)) == self._split(text)

    def _rest(self, text: str) -> list[int]:
        """Ids behind those that are known to be the text's, now that it has been seen."""
        if not text.startswith(self._text):
            self._text, self._ids = "", []
        known = len(self._text)
        last = max((match.start() for match in self._added.finditer(text, known)), default=known)
        if last > known:
            self._ids += self._split(text[known:last])
            self._text = text[:last]
        return self._split(text[last:])

    def _split(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
