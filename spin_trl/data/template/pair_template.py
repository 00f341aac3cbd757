"""One template, one end: the only place where prompts and real responses are tokenised in self-play.

Generation starts exactly where the real response starts, and the real response stops at the EOS that ends its turn, like a
generation. Otherwise the policy would learn to tell the two apart by the template instead of by the answer.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from ...errors import DataError, TemplateError
from ...files import json_digest, numbered
from .. import notes
from ..reading.json_text import value_in
from .changes import Changes, text_of_ids
from .identity import tokenizer_identity
from .long_conversation import render_answers
from .markers import Message
from .rendering import ConversationRenderer, Options, Rendered
from .templated import Opening, is_templated, opening_of, rendered_turns
from .text_ids import LONG, Cuts, GrowingIds, LeastIds, text_ids

# Placeholder for a response, to see what a template writes around it; no template or tokenizer treats it specially.
_PROBE = "Qzprobezq"


class EarlyEndError(DataError):
    """A real response would end early, at an EOS token inside its own text."""


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a prompt and of its real response, which ends with EOS, and notes on them."""

    prompt_ids: list[int]
    real_ids: list[int]
    notes: frozenset[str] = frozenset()


def eos_token_ids(tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None = None) -> list[int]:
    """Return all ids that end a response: the tokenizer's EOS and all of `generation_config.eos_token_id`."""
    configured = generation_config.eos_token_id if generation_config is not None else None
    ids = [tokenizer.eos_token_id, *(configured if isinstance(configured, Iterable) else [configured])]
    return sorted({token for token in ids if token is not None})


class PairTemplate:
    """Tokenises a prompt and its real response in the same way for generation and training.

    Args:
        tokenizer: tokenizer, which needs a chat template if the data is conversational.
        eos_ids: ids that end a response (see [`eos_token_ids`]). If a chat template ends a turn with another special
            token, that token is added, since generation has to stop where the real response does.
        chat_template_kwargs: arguments for the chat template of every row; a row's own arguments take precedence.

    Raises:
        DataError: if the tokenizer has no EOS token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: Sequence[int] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.eos_ids = list(eos_token_ids(tokenizer) if eos_ids is None else eos_ids)
        self._turn_end: int | None = None
        self._renderer, self._cuts = ConversationRenderer(tokenizer), Cuts(tokenizer)
        self._least_ids = LeastIds(tokenizer)
        self._ends_of_tails: dict[str, int] = {}
        if not self.eos_ids:
            raise DataError(
                "The tokenizer has no EOS token, so neither a real nor a generated response would ever end. "
                "Set `tokenizer.eos_token`, or `eos_token_id` in the model's generation_config.json."
            )
        if tokenizer.chat_template is not None:
            self._add_turn_end()
        # Tokens that the tokenizer puts before every text, such as BOS.
        with_special, without = (list(tokenizer("x", add_special_tokens=add)["input_ids"]) for add in (True, False))
        self._prefix = with_special[: max(_position_of(with_special, without), 0)]
        self._changes = Changes(tokenizer, self._prefix)

    def encode(
        self,
        prompt: str | list[Message],
        response: str | Message,
        tools: Any = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> EncodedPair:
        """Tokenise one prompt and its real response.

        Args:
            prompt: plain text, or the messages before the response.
            response: plain text, or the assistant's message.
            tools: tools for the template, as a list or as JSON.
            chat_template_kwargs: the row's own arguments for the template.

        Raises:
            TemplateError: if the template renders the conversation such that no generation could continue its prompt.
        """
        if isinstance(prompt, str) and isinstance(response, str):
            found = self.encode_text(prompt, response)
            assert found is not None  # no prompt is too long
            return found
        if not isinstance(prompt, list) or not isinstance(response, dict):
            raise DataError("the prompt and the response must both be text or both be messages")
        options = {**self.chat_template_kwargs, **(chat_template_kwargs or {})}
        options["tools"] = value_in(tools, "`tools` is") or None
        found = self._encode_messages(prompt, response, options, GrowingIds(self._cuts))
        assert found is not None  # no prompt is too long
        return found

    def encode_text(self, prompt: str, response: str, too_long: float = math.inf) -> EncodedPair | None:
        """Tokenise a plain-text prompt and its response, as [`PairTemplate.encode`] does.

        Args:
            prompt: plain text.
            response: plain text.
            too_long: number of tokens from which a prompt is too long.

        Returns:
            The pair; None if the prompt is too long.

        Raises:
            DataError: if the response would end early.
        """
        if self._least_ids.of(prompt) >= too_long:
            if self._count_ends(self._continuation(response)[:-1]):
                self._check_end(response, (response,))
            return None
        start = self._with_special(prompt)
        # Some tokenizers end every text with EOS, but a prompt is continued.
        if start and start[-1] in self.eos_ids and not prompt.endswith(str(self.tokenizer.decode(start[-1:]))):
            start = start[:-1]
        is_wanted = len(start) < too_long
        whole = self._with_special(prompt + response) if is_wanted else []
        real = self._behind(start, whole, response)
        if self._count_ends(real[:-1]):
            self._check_end(response, (response,))
        if not is_wanted:
            return None
        real = self._ended(real, self._own_end())
        return EncodedPair(
            start, real, self._changes.notes_on([*start, *real], prompt + response, len(prompt + response))
        )

    def own_texts(
        self,
        prompt: str | list[Message],
        response: str | Message,
        tools: Any = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[str, list[tuple[int, int]]]:
        """Write a prompt and its real response as text, and find the row's own texts in the result.

        Args:
            prompt, response, tools, chat_template_kwargs: as in [`PairTemplate.encode`].

        Returns:
            The text, and the start and end positions of the row's own texts in it, in order. The rest was written by the
            chat template. Special tokens that the tokenizer puts around a text are not included.

        Raises:
            TemplateError, DataError: as in [`PairTemplate.encode`].
        """
        if isinstance(prompt, str) and isinstance(response, str):
            return prompt + response, [(0, len(prompt + response))]
        if not isinstance(prompt, list) or not isinstance(response, dict):
            raise DataError("the prompt and the response must both be text or both be messages")
        options = {**self.chat_template_kwargs, **(chat_template_kwargs or {})}
        options["tools"] = value_in(tools, "`tools` is") or None
        return self._renderer.own_texts(prompt, response, options)

    def encode_answers(
        self,
        messages: list[Message],
        positions: Sequence[int],
        tools: Any = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        too_long: float = math.inf,
    ) -> Iterator[EncodedPair | None]:
        """Tokenise several answers of a conversation, each as [`PairTemplate.encode`] does.

        The messages before an answer are its prompt.

        Args:
            messages: messages up to the last of the answers.
            positions: numbers of the answers' messages, in order.
            tools: as in [`PairTemplate.encode`].
            chat_template_kwargs: as in [`PairTemplate.encode`].
            too_long: number of tokens from which a prompt is too long.

        Yields:
            A pair for each answer; None if its prompt is too long.

        Raises:
            TemplateError, DataError: as in [`PairTemplate.encode`].
        """
        options = {**self.chat_template_kwargs, **(chat_template_kwargs or {})}
        options["tools"] = value_in(tools, "`tools` is") or None
        found, ids_of = render_answers(self._renderer, messages, positions, options), GrowingIds(self._cuts)
        if found is None:
            for position in positions:
                pair = self._encode_messages(messages[:position], messages[position], options, ids_of, too_long)
                yield pair if pair is not None and len(pair.prompt_ids) < too_long else None
            return
        bos, opening = self.tokenizer.bos_token, self._opening
        templated = list(accumulate(is_templated([one], opening, bos, number) for number, one in enumerate(messages)))
        known = 0
        for position in positions:
            if known >= too_long:  # later prompts begin with this one
                yield None
                continue
            one = found.at(position)
            before = one.text[: one.start]
            is_wanted = self._least_ids.of(before) < too_long and ids_of.count(before) < too_long
            known = ids_of.known
            yield self._encode_rendered(one, ids_of, bool(templated[position - 1])) if is_wanted else None

    def _encode_messages(
        self,
        prompt: list[Message],
        response: Message,
        options: Options,
        ids_of: GrowingIds,
        too_long: float = math.inf,
    ) -> EncodedPair | None:
        """Tokenise a response and its prompt; None if the prompt is surely too long."""
        templated = is_templated(prompt, self._opening, self.tokenizer.bos_token)
        rendered = self._renderer.render(prompt, response, options)
        if self._least_ids.of(rendered.text[: rendered.start]) >= too_long:
            return None
        # Cutting a short text takes longer than tokenising it twice.
        return self._encode_rendered(rendered, ids_of if len(rendered.text) >= LONG else self._ids, templated)

    def _encode_rendered(self, rendered: Rendered, ids_of: Callable[[str], list[int]], templated: bool) -> EncodedPair:
        start, rest = rendered.text[: rendered.start], rendered.text[rendered.start :]
        end = self._own_end() if self._turn_end is None else self._turn_end
        start_ids = ids_of(start)
        real = self._behind(start_ids, ids_of(rendered.text), rest)
        if self._count_ends(real) != self._ends_of(rendered.text[rendered.end :]):
            self._check_end(rendered.text[rendered.start : rendered.end], rendered.answer)
        real = self._ended(real, end)
        found = {notes.TEMPLATED_BEFORE} if templated else set()
        found |= rendered.notes | self._changes.notes_on([*start_ids, *real], rendered.text, rendered.end)
        return EncodedPair(start_ids, real, frozenset(found))

    def digest(self, definition: int = 2) -> str:
        """Return a hash of everything that determines a row's tokens: tokenizer, template, its arguments, EOS ids.

        Args:
            definition: definition of the hash. 1: as in version 0.1.0, where tokenizers that split text in the same way but
                add different special tokens have the same digest. 2: the whole tokenizer (see [`tokenizer_identity`]) and
                its own EOS.

        Returns:
            16 hexadecimal digits, preceded by `02` if the definition is 2.
        """
        tokenizer = self.tokenizer
        if definition == 1:
            # The ids of a text reveal normalisation and pre-tokenisation.
            shown = self._ids("Ab 12,  é\n\n\tWörld's (x)")
            vocabulary = sorted(tokenizer.get_vocab().items())
            identity = [tokenizer.chat_template, self.chat_template_kwargs, self.eos_ids, vocabulary, shown]
            return numbered(1, json_digest(identity))
        if definition != 2:
            raise ValueError(f"definition {definition} of a template's digest is unknown; expected 1 or 2")
        ends = [self.eos_ids, tokenizer.eos_token_id, self._turn_end]
        identity = [tokenizer_identity(tokenizer), tokenizer.chat_template, self.chat_template_kwargs, ends]
        return numbered(2, json_digest(identity))

    @functools.cached_property
    def _opening(self) -> Opening | None:
        """Text that the chat template writes before a user's text."""
        if self.tokenizer.chat_template is None:
            return None
        ends = [self.tokenizer.bos_token, *map(str, self.tokenizer.convert_ids_to_tokens(self.eos_ids))]
        return opening_of(self._plainly, ends)

    def _plainly(self, messages: list[Message]) -> str:
        """Render messages that belong to no row, without tools."""
        return self._renderer.apply(messages, {**self.chat_template_kwargs, "tools": None})

    def _ids(self, text: str) -> list[int]:
        return text_ids(self.tokenizer, text)

    def _with_special(self, text: str) -> list[int]:
        """Return the ids of a text with special tokens around it, except those that the text itself begins with."""
        ids, size = text_ids(self.tokenizer, text, special=True), len(self._prefix)
        return ids[size:] if size and ids[: 2 * size] == self._prefix * 2 else ids

    def _behind(self, start: list[int], whole: list[int], rest: str) -> list[int]:
        """Return the ids after those of the prompt."""
        # If tokens merge across the boundary, a generation could not have produced the merged token.
        return whole[len(start) :] if whole[: len(start)] == start else self._continuation(rest)

    def _ended(self, real: list[int], eos_id: int) -> list[int]:
        """Cut a response after its first EOS, or append one."""
        end = self._first_end(real)
        return [*real, eos_id] if end is None else real[: end + 1]

    def _ends_of(self, tail: str) -> int:
        """Return the number of EOS ids in the text that a template writes after an answer."""
        if tail not in self._ends_of_tails:
            if len(self._ends_of_tails) >= 1000:  # a template that writes a different text after every answer
                self._ends_of_tails.clear()
            self._ends_of_tails[tail] = self._count_ends(self._ids(tail))
        return self._ends_of_tails[tail]

    def _check_end(self, response: str, texts: Sequence[str]) -> None:
        """Raise if an EOS token ends a response before its last word.

        Args:
            response: text from where a generation starts to the end of the answer.
            texts: own texts of the answer, without the text that the template writes around them.
        """
        ids = self._continuation(response)
        end = self._first_end(ids)
        if end is None or not text_of_ids(self.tokenizer, ids[end + 1 :]).strip():
            return
        token = text_of_ids(self.tokenizer, ids[end : end + 1])
        before = text_of_ids(self.tokenizer, ids[:end])[-40:]
        lost = f"after {before!r}: it ends a response, so everything that follows would be lost"
        if any(self._count_ends(self._continuation(text)) for text in texts):
            raise EarlyEndError(f"the real response contains {token!r} inside its text, {lost}. Remove or rewrite it.")
        raise TemplateError(
            f"The chat template writes {token!r} inside an answer, {lost}. Use another template, or leave such rows out."
        )

    def _count_ends(self, ids: list[int]) -> int:
        return sum(map(ids.count, set(self.eos_ids)))

    def _first_end(self, ids: list[int]) -> int | None:
        """Return the position of the first EOS, or None."""
        return min((ids.index(token) for token in self.eos_ids if token in ids), default=None)

    def _continuation(self, text: str) -> list[int]:
        """Tokenise a text that continues another one: SentencePiece would put a space before a text on its own."""
        for anchor in ("\n", "x"):
            before, ids = self._ids(anchor), self._ids(anchor + text)
            if ids[: len(before)] == before:
                return ids[len(before) :]
        return self._ids(text)

    def _own_end(self) -> int:
        """Return the id that ends a response whose template writes no EOS: the tokenizer's own, if it is in `eos_ids`."""
        return min(self.eos_ids, key=lambda token: (token != self.tokenizer.eos_token_id, token))

    def _add_turn_end(self) -> None:
        found = next(rendered_turns(self._plainly, [_PROBE] * 2), None)
        if found is None:
            return  # the template needs other messages; errors will show up in the rows
        conversation, text = found
        ids = self._ids(text.rpartition(_PROBE)[2])
        added = [token for token, one in self.tokenizer.added_tokens_decoder.items() if one.special]
        special = [token for token in ids if token in (*self.tokenizer.all_special_ids, *added)]
        if special and not set(ids) & set(self.eos_ids):
            self.eos_ids = [*self.eos_ids, special[0]]
        if not special:
            self._turn_end = self._start_of_next_turn(conversation)

    def _start_of_next_turn(self, conversation: list[Message]) -> int | None:
        """Return the EOS with which the next user turn begins: models whose template does not end turns (GLM) stop there."""
        with contextlib.suppress(TemplateError):
            ids = self._ids(self._plainly([*conversation, conversation[0]]).rsplit(_PROBE, 2)[1])
            return ids[0] if ids and ids[0] in self.eos_ids else None
        return None


def _position_of(ids: list[int], part: list[int]) -> int:
    """Return the position of `part` in `ids`, or -1."""
    return next((i for i in range(len(ids) - len(part) + 1) if ids[i : i + len(part)] == part), -1)
