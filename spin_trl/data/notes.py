"""Notes on responses taken while rows are tokenised, and their wording in warnings, which are given once per dataset."""

from __future__ import annotations

from collections.abc import Sequence

from ..counts import agreeing, counted

_SENTENCES: dict[str, str] = {}


def _note(name: str, sentence: str) -> str:
    """Register a note with the text of its warning, and return its name."""
    _SENTENCES[name] = sentence
    return name


SPACE = _note("outer space stripped", "the chat template strips white space around {their} text")
EARLIER_THINKING = _note(
    "earlier thinking left out",
    "the chat template leaves out the thinking of earlier answers, as it does at inference",
)
TOOLS = _note("tools left out", "the chat template does not write tools, so {their} tools are missing from the prompt")
NO_THINKING = _note(
    "rendered without thinking",
    "the chat template opens a thinking block where a generation starts, but {they_have} none, so {they_are} rendered with "
    "`enable_thinking: false`. Do the same at inference, and set `chat_template_kwargs: {{enable_thinking: false}}` to make "
    "this explicit",
)
RECORDED_START = _note(
    "generation starts as recorded answers do",
    "the chat template starts a generation differently from a recorded answer (for example with a thinking block that "
    "recorded answers don't have), so {their} prompt ends where a recorded answer begins, in both generation and training",
)
NORMALISED = _note("normalised", "the tokenizer changes {their} text (Unicode form, letter case or white space)")
UNKNOWN_IN_TEXT = _note(
    "unknown token",
    "the tokenizer has no tokens for some of {their} characters, which become its unknown token or are lost",
)
CUT = _note("cut by max_length", "truncated by `max_length` ({max_length}), so {they_lose} the end and the EOS")
EARLY_END = _note("ends early", "an EOS token inside {their} own text would end {them} early")
MARKED = _note(
    "marked turn left out",
    "further turns are marked in the same row, but not trained on, because `train_on_turn` selects one turn per "
    "conversation; `all` trains on every marked turn",
)
TEMPLATED_BEFORE = _note(
    "templated before",
    "{their} prompt contains markers that chat templates write before a user's text, such as `<|im_start|>user` or "
    "`[INST]`. If it has been templated already, the template is applied twice: give plain text (without "
    "`as_conversations`), or remove the markers",
)
UNANSWERED = _note(
    "turns behind the last answer left out",
    "the conversation continues after {them} with turns that have no answer, which are left out",
)
FIELD = "unused field: "
"""Prefix of notes on unused fields of messages, followed by the field's name."""

_TRAINED = ("loss", "mask", "masked", "loss_mask", "training", "trainable", "trained", "train_on", "train_detail")
_THOUGHTS = ("thought", "thoughts", "reasoning_text", "rationale", "cot", "think")
_TOOL_CALLS = ("tool_call", "toolcalls", "toolCalls", "calls", "functions", "function_calls", "tools")
_HINTS = {
    **dict.fromkeys(_TRAINED, "may mark turns to train on, which is read from `train` and `weight`"),
    **dict.fromkeys(_THOUGHTS, "may be thinking, which is read from `reasoning_content`"),
    **dict.fromkeys(_TOOL_CALLS, "may be tool calls, which are read from `tool_calls`"),
}

_PRONOUNS = {
    "their": ("its", "their"),
    "them": ("it", "them"),
    "they_are": ("it is", "they are"),
    "they_have": ("it has", "they have"),
    "they_lose": ("it loses", "they lose"),
}
"""Forms that agree with the number of responses, by their names in the sentences."""

NOTES = tuple(_SENTENCES)
"""Names of all notes."""


def note_in_words(note: str, count: int, first: int, name: str, max_length: int | None = None) -> str:
    """Return the warning for a note.

    Args:
        note: one of `NOTES`.
        count: number of responses that have it.
        first: number of the first row that has it (0-based).
        name: name of the dataset.
        max_length: value of the setting `max_length`.
    """
    forms = {pronoun: agreeing(count, *both) for pronoun, both in _PRONOUNS.items()}
    text = _SENTENCES[note].format(max_length=max_length, **forms)
    return f"{counted(count, 'real response')} of the {name} dataset (first in row {first}): {text}."


def sentence_on_fields(fields: Sequence[str], name: str) -> str:
    """Return the warning about fields of messages that the chat template ignores.

    Args:
        fields: names of the fields.
        name: name of the dataset.
    """
    said = [f"`{field}` ({_HINTS[field]})" if field in _HINTS else f"`{field}`" for field in fields]
    return f"Fields of messages in the {name} dataset that the chat template ignores: {', '.join(said)}."
