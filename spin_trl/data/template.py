"""One template, one end: the only place where prompts and real responses become tokens in self-play.

Generation starts exactly where the real response starts, and the real response stops at the EOS that ends its turn, as a
generation does. Otherwise the policy learns to tell the two apart by the template instead of by the answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from ..errors import DataError, TemplateError
from ..files import numbered

Message = dict[str, Any]

# Stands in for a response to see what a template writes around it; no template and no tokenizer treats it specially.
_PROBE = "Qzprobezq"


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a prompt, and of its real response, which ends with EOS."""

    prompt_ids: list[int]
    real_ids: list[int]


def eos_token_ids(tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None = None) -> list[int]:
    """Every id that ends a response: the tokenizer's EOS and all of `generation_config.eos_token_id`."""
    ids = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    configured = generation_config.eos_token_id if generation_config is not None else None
    ids.update(configured if isinstance(configured, Iterable) else [] if configured is None else [configured])
    return sorted(ids)


class PairTemplate:
    """Turns a prompt and its real response into tokens, the same way for generation and for training.

    Args:
        tokenizer: with a chat template, if the data is conversational.
        eos_ids: ids that end a response (see [`eos_token_ids`]). If a chat template ends a turn with another special
            token, that token is added: generation has to stop where the real response does.
        chat_template_kwargs: passed to the chat template of every row; a row's own win.

    Raises:
        DataError: the tokenizer has no EOS token.
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
        if not self.eos_ids:
            raise DataError(
                "The tokenizer has no EOS token, so neither a real nor a generated response would ever end. "
                "Set `tokenizer.eos_token`, or `eos_token_id` in the model's generation_config.json."
            )
        if tokenizer.chat_template is not None:
            self._add_turn_end()

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
            tools: functions that the template may show, as a list or as JSON.
            chat_template_kwargs: the row's own arguments for the template.

        Raises:
            TemplateError: the template renders the conversation so that no generation could continue its prompt.
        """
        if isinstance(prompt, str) and isinstance(response, str):
            return self._encode_text(prompt, response)
        if not isinstance(prompt, list) or not isinstance(response, dict):
            raise DataError("the prompt and the response must both be text or both be messages")
        options = {**self.chat_template_kwargs, **(chat_template_kwargs or {})}
        options["tools"] = _parsed(tools)
        start, rest = self._split(prompt, response, options)
        end = self.eos_ids_of_turn()[0] if self._turn_end is None else self._turn_end
        return self._end(self._ids(start), self._ids(start + rest), rest, end)

    def digest(self, definition: int = 2) -> str:
        """Hash of what decides the tokens of a row: template, its arguments, vocabulary, how text is split, EOS ids."""
        tokenizer = self.tokenizer
        identity = [
            tokenizer.chat_template,
            self.chat_template_kwargs,
            self.eos_ids,
            sorted(tokenizer.get_vocab().items()),
            # Normalisation and pre-tokenisation show in what they make of a text.
            self._ids("Ab 12,  é\n\n\tWörld's (x)"),
        ]
        return numbered(definition, hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest())

    def _render(self, messages: list[Message], options: Mapping[str, Any], *, generate: bool) -> str:
        if self.tokenizer.chat_template is None:
            raise DataError(
                "The data is conversational, but the tokenizer has no chat template. Set `tokenizer.chat_template`, use "
                "the tokenizer of a chat model, or give plain `prompt` and `completion` text."
            )
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generate, **options
            )
        except Exception as error:  # a template is a program: it raises what it likes
            raise TemplateError(f"The chat template fails on this conversation: {error}") from error

    def _split(self, prompt: list[Message], response: Message, options: Mapping[str, Any]) -> tuple[str, str]:
        """The rendered conversation in two: up to where generation starts, and from there on."""
        before = self._render(prompt, options, generate=True)
        whole = self._render([*prompt, response], options, generate=False)
        content = _text(response)
        if set(response) <= {"role", "content"}:
            around = self._render([*prompt, _with_text(response, _PROBE)], options, generate=False)
            if around.count(_PROBE) == 1:
                head, tail = around.split(_PROBE)
                middle = whole[len(head) : len(whole) - len(tail)]
                if head.startswith(before) and whole == head + middle + tail and middle.strip() == content.strip():
                    # What the template puts before every answer (an empty thinking block, say) belongs to the prompt.
                    # A mere space does not: tokenizers join it to the answer's first word, and so do generations.
                    start = before if not head[len(before) :].strip(" ") else head
                    return start, whole[len(start) :]
                if not whole.startswith(before):
                    self._refuse(before, head, options, prompt, response)
        if not whole.startswith(before):
            self._refuse(before, whole, options, prompt, response)
        if content.strip() not in whole[len(before) :]:
            raise TemplateError(
                f"The chat template does not write the answer as it is: {content[:60]!r} became "
                f"{whole[len(before) :][:60]!r}. It may want content as a list of parts, like "
                '[{"type": "text", "text": ...}].'
            )
        if response.get("tool_calls") and whole == self._render(
            [*prompt, {**response, "content": content, "tool_calls": None}], options, generate=False
        ):
            raise TemplateError("The chat template leaves out tool calls, so this answer would lose them.")
        return before, whole[len(before) :]

    def _refuse(
        self,
        before: str,
        rendered: str,
        options: Mapping[str, Any],
        prompt: list[Message],
        response: Message,
    ) -> None:
        common = next((i for i, (a, b) in enumerate(zip(before, rendered, strict=False)) if a != b), len(rendered))
        advice = "Use another chat template, or plain `prompt` and `completion` text."
        if options.get("enable_thinking", True):
            try:
                self._split(prompt, response, {**options, "enable_thinking": False})
                advice = "Set `chat_template_kwargs: {enable_thinking: false}`, with which this template works."
            except TemplateError:
                pass
        raise TemplateError(
            f"The chat template starts a generation with {before[common:][:60]!r}, but renders a recorded answer with "
            f"{rendered[common:][:60]!r} in its place, so a real response can't stand where a generated one does. {advice}"
        )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode_text(self, prompt: str, response: str) -> EncodedPair:
        whole, start = (list(self.tokenizer(text)["input_ids"]) for text in (prompt + response, prompt))
        # Some tokenizers end every text with EOS; a prompt goes on.
        if start and start[-1] in self.eos_ids and not prompt.endswith(self.tokenizer.decode(start[-1:])):
            start = start[:-1]
        return self._end(start, whole, response, self.eos_ids_of_turn()[0])

    def _end(self, start: list[int], whole: list[int], rest: str, eos_id: int) -> EncodedPair:
        """Cut the response at the first EOS behind its start, or give it one."""
        # Where tokens merge across the boundary, a generation could not have produced the merged one.
        real = whole[len(start) :] if whole[: len(start)] == start else self._continuation(rest)
        end = next((i for i, token in enumerate(real) if token in self.eos_ids), None)
        return EncodedPair(start, [*real, eos_id] if end is None else real[: end + 1])

    def _continuation(self, text: str) -> list[int]:
        """Tokens of a text that goes on: SentencePiece would put a space before one that stands alone."""
        for anchor in ("\n", "x"):
            before, ids = self._ids(anchor), self._ids(anchor + text)
            if ids[: len(before)] == before:
                return ids[len(before) :]
        return self._ids(text)

    def eos_ids_of_turn(self) -> list[int]:
        """EOS ids, the tokenizer's own first: the one that ends a response whose template writes none."""
        own = self.tokenizer.eos_token_id
        return sorted(self.eos_ids, key=lambda token: (token != own, token))

    def _add_turn_end(self) -> None:
        for content in (_PROBE, [{"type": "text", "text": _PROBE}]):  # text, or parts as vision templates want them
            conversation = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
            try:
                tail = self._render(conversation, {**self.chat_template_kwargs, "tools": None}, generate=False)
            except TemplateError:
                continue  # the template wants other messages; the rows will tell
            if _PROBE not in tail:
                continue
            ids = self._ids(tail[tail.rfind(_PROBE) + len(_PROBE) :])
            special = [token for token in ids if token in self.tokenizer.all_special_ids or self._is_added(token)]
            if special and not set(ids) & set(self.eos_ids):
                self.eos_ids = [*self.eos_ids, special[0]]
            if not special:
                self._turn_end = self._start_of_next_turn(conversation)
            return

    def _start_of_next_turn(self, conversation: list[Message]) -> int | None:
        """The EOS with which the user's next turn begins: models whose template ends no turn (GLM's) stop there."""
        try:
            whole = self._render(
                [*conversation, conversation[0]], {**self.chat_template_kwargs, "tools": None}, generate=False
            )
        except TemplateError:
            return None
        ids = self._ids(whole.rsplit(_PROBE, 2)[1])
        return ids[0] if ids and ids[0] in self.eos_ids else None

    def _is_added(self, token: int) -> bool:
        added = self.tokenizer.added_tokens_decoder.get(token)
        return added is not None and added.special


def _parsed(tools: Any) -> Any:
    """Tools as a template takes them: a list, or None."""
    try:
        return (json.loads(tools) if isinstance(tools, str) and tools else tools) or None
    except ValueError as error:
        raise DataError(f"`tools` is not valid JSON ({error}): {tools[:60]!r}") from error


def _text(message: Message) -> str:
    """The text of a message whose content is text, or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if isinstance(part, dict))


def _with_text(message: Message, text: str) -> Message:
    content = text if isinstance(message.get("content"), str) else [{"type": "text", "text": text}]
    return {**message, "content": content}
