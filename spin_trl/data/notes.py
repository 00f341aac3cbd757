"""What is noticed while rows become tokens, in the words in which a user is told about it, once a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from ..counts import counted

_SENTENCES: dict[str, str] = {}


def _note(name: str, sentence: str) -> str:
    """A note by its name, and what a user is told about the responses that have it."""
    _SENTENCES[name] = sentence
    return name


SPACE = _note("outer space stripped", "the chat template strips white space around their texts")
EARLIER_THINKING = _note(
    "earlier thinking left out", "the chat template leaves out the thinking of earlier answers, as at inference"
)
TOOLS = _note("tools left out", "the chat template shows no tools, so theirs are left out of the prompts")
NO_THINKING = _note(
    "rendered without thinking",
    "the chat template opens a thinking block where a generation starts, and these have none, so they are rendered with "
    "`enable_thinking: false`. Do the same at inference, and set `chat_template_kwargs: {{enable_thinking: false}}` to "
    "say so",
)
RECORDED_START = _note(
    "generation starts as recorded answers do",
    "the chat template starts a generation in another way than it writes a recorded answer (with a thinking block that "
    "these don't have, say), so their prompts end where recorded answers begin, for generation and training alike",
)
NORMALISED = _note("normalised", "the tokenizer changes their text (Unicode form, letter case or white space)")
UNKNOWN_IN_TEXT = _note(
    "unknown token",
    "the tokenizer has no token for some of their characters, which become its unknown token or are lost",
)
CUT = _note("cut by max_length", "cut by `max_length` ({max_length}), so they lose their end and its EOS")
EARLY_END = _note("ends early", "an EOS token inside their own text would end them early")
MARKED = _note(
    "marked turn left out",
    "their rows mark further turns that are not trained on, because `train_on_turn` takes one of a conversation; set "
    "it to `all`",
)
TEMPLATED_BEFORE = _note(
    "templated before",
    "their prompts hold what chat templates write before a user's text, such as `<|im_start|>user` or `[INST]`. If they "
    "were templated before, they are so twice: give plain text (without `as_conversations`), or take that out",
)
UNANSWERED = _note(
    "turns behind the last answer left out",
    "their conversations go on behind them, with turns that nothing answers, which are left out",
)
FIELD = "unused field: "
"""Of messages. The field's name follows."""

_TRAINED = ("loss", "mask", "masked", "loss_mask", "training", "trainable", "trained", "train_on", "train_detail")
_THOUGHTS = ("thought", "thoughts", "reasoning_text", "rationale", "cot", "think")
_TOOL_CALLS = ("tool_call", "toolcalls", "toolCalls", "calls", "functions", "function_calls", "tools")
_HINTS = {
    **dict.fromkeys(_TRAINED, "may say whether a turn is trained on: that is read of `train` and `weight`"),
    **dict.fromkeys(_THOUGHTS, "may be thinking: that is read of `reasoning_content`"),
    **dict.fromkeys(_TOOL_CALLS, "may be tool calls: those are read of `tool_calls`"),
}

NOTES = tuple(_SENTENCES)
"""Of all notes."""


def note_in_words(note: str, count: int, first: int, name: str, max_length: int | None = None) -> str:
    """What a user is told of a note.

    Args:
        note: one of `NOTES`.
        count: how many responses have it.
        first: number of the first row that has it (0-based).
        name: of the dataset.
        max_length: the setting.
    """
    text = _SENTENCES[note].format(max_length=max_length)
    return f"{counted(count, 'real response')} of the {name} dataset (first in row {first}): {text}."


def sentence_on_fields(fields: Sequence[str], name: str) -> str:
    """What a user is told of fields of messages that the chat template makes nothing of.

    Args:
        fields: their names.
        name: of the dataset.
    """
    said = [f"`{field}` ({_HINTS[field]})" if field in _HINTS else f"`{field}`" for field in fields]
    return f"Fields of messages of the {name} dataset that the chat template makes nothing of: {', '.join(said)}."
