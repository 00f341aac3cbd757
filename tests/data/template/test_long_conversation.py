"""All answers of a conversation are encoded from one rendering, with the same result as encoding each separately."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from spin_trl.data import notes
from spin_trl.data.template.long_conversation import FEW_ANSWERS, render_answers
from spin_trl.data.template.pair_template import EncodedPair, PairTemplate, eos_token_ids
from spin_trl.data.template.rendering import ConversationRenderer
from spin_trl.data.template.text_ids import Cuts, GrowingIds
from trl_templates import TEMPLATES, family_tokenizer, generation_config

Chat = list[dict[str, Any]]


def chat(answers: int, text: Callable[[int], str] = "Turn {} of the talk.".format) -> tuple[Chat, list[int]]:
    """Return a conversation of a user and an assistant, with the indices of the assistant's messages."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text(i)} for i in range(2 * answers)]
    return messages, list(range(1, 2 * answers, 2))


def each_alone(template: PairTemplate, messages: Chat, positions: list[int]) -> list[EncodedPair]:
    return [template.encode(messages[:position], messages[position]) for position in positions]


@pytest.mark.parametrize("path", TEMPLATES, ids=[path.stem for path in TEMPLATES])
def test_each_answer_is_encoded_as_by_itself(path: Path) -> None:
    """This includes white space around a text, which a template may strip."""
    tokenizer = family_tokenizer(path)
    template = PairTemplate(tokenizer, eos_token_ids(tokenizer, generation_config(path, tokenizer)))
    messages, positions = chat(
        FEW_ANSWERS + 3, lambda i: ("\n" if i == 9 else "") + f"Turn {i}." + (" \n" if i == 13 else "")
    )

    assert list(template.encode_answers(messages, positions)) == each_alone(template, messages, positions)


def test_the_answers_are_rendered_together() -> None:
    """Twice as many answers need one more conversation to be rendered, not twice as many."""
    rendered = []

    class Counting(ConversationRenderer):
        def apply(self, messages: Chat, options: Any, *, generate: bool = False) -> str:
            rendered[-1] += 1
            return super().apply(messages, options, generate=generate)

    for answers in (64, 128):
        rendered.append(0)
        assert render_answers(Counting(tiny.tokenizer()), *chat(answers), {"tools": None}) is not None

    # One for itself, and two that prove its kind.
    assert rendered[1] - rendered[0] == 3


@pytest.mark.parametrize(
    "odd",
    [
        "{% if loop.first and messages|selectattr('role', 'equalto', 'user')|list|length > 9 %}(long){% endif %}",
        "{% if loop.index0 == 20 %}(20){% endif %}",
    ],
)
def test_a_template_that_looks_at_the_length_gets_each_by_itself(odd: str) -> None:
    start = "{{ '<|im_start|>' + message['role']"
    template = PairTemplate(tiny.tokenizer(chat_template=tiny.CHATML.replace(start, odd + start)))
    messages, positions = chat(FEW_ANSWERS + 4)

    assert list(template.encode_answers(messages, positions)) == each_alone(template, messages, positions)


def test_space_that_a_template_strips_is_noted_from_there_on() -> None:
    source = tiny.CHATML.replace("(message['content'] or '')", "(message['content'] or '')|trim")
    template = PairTemplate(tiny.tokenizer(chat_template=source))
    messages, positions = chat(FEW_ANSWERS + 4, lambda i: f"Turn {i}." + ("  " if i == 10 else ""))

    noted = [notes.SPACE in one.notes for one in template.encode_answers(messages, positions) if one is not None]

    assert noted == [position > 10 for position in positions]


def test_prompts_that_are_too_long_are_not_encoded() -> None:
    template = PairTemplate(tiny.tokenizer())
    messages, positions = chat(FEW_ANSWERS + 8)
    whole = each_alone(template, messages, positions)
    longest = len(whole[5].prompt_ids)

    assert list(template.encode_answers(messages, positions, too_long=longest)) == [
        *whole[:5],
        *[None] * (FEW_ANSWERS + 3),
    ]


def test_thinking_is_looked_at_answer_by_answer() -> None:
    """A template may omit the thinking of all answers but the last."""
    messages, positions = chat(
        FEW_ANSWERS + 4, lambda i: f"<think>Hm {i}.</think>Turn {i}." if i % 2 else f"Turn {i}."
    )

    assert render_answers(ConversationRenderer(tiny.tokenizer()), messages, positions, {"tools": None}) is None


def test_ids_of_growing_texts_are_those_of_the_whole() -> None:
    tokenizer = tiny.tokenizer()
    messages, _ = chat(6)
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    ids_of = GrowingIds(Cuts(tokenizer))

    for stop in (40, 41, 90, 200, len(text), 60):
        assert ids_of(text[:stop]) == tokenizer(text[:stop], add_special_tokens=False)["input_ids"]
        assert ids_of.count(text[:stop]) == len(ids_of(text[:stop]))
