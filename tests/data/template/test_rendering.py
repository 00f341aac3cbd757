"""All content of a conversation is in its tokens; if a chat template omits some, the row is refused, or the loss is
noted.
"""

import json
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from messages import names, refused
from spin_trl.data import notes
from spin_trl.data.prepare import prepare_and_count
from spin_trl.data.template.pair_template import EncodedPair, PairTemplate, eos_token_ids
from spin_trl.data.template.rendering import REMEMBERED_KINDS
from spin_trl.errors import DataError, TemplateError
from trl_templates import CALLS, RESULTS, SHAPES, TEMPLATES, family_tokenizer, generation_config

U, A = "user", "assistant"


def named(stem: str) -> Path:
    (path,) = (path for path in TEMPLATES if path.stem == stem)
    return path


def template_of(path: Path) -> PairTemplate:
    """Return a template of TRL's with the tokenizer and EOS ids that its models publish."""
    tokenizer = family_tokenizer(path)
    return PairTemplate(tokenizer, eos_token_ids(tokenizer, generation_config(path, tokenizer)))


def chatml(source: str = tiny.CHATML) -> PairTemplate:
    return PairTemplate(tiny.tokenizer(chat_template=source))


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def encoded(template: PairTemplate, *messages: dict[str, Any], **more: Any) -> EncodedPair:
    return template.encode(list(messages[:-1]), messages[-1], **more)


def text_of(template: PairTemplate, pair: EncodedPair) -> str:
    return template.tokenizer.decode([*pair.prompt_ids, *pair.real_ids])


def texts_in(messages: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Return every text of a conversation, with its message's number; a minus marks thinking."""
    found = []
    for number, one in enumerate(messages):
        content = one.get("content") or ""
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        thinking, closed, rest = text.partition("</think>")
        if closed and one["role"] == A:
            found += [(-number - 1, thinking.strip().removeprefix("<think>")), (number, rest)]
        else:
            found.append((number, text))
        found.append((-number - 1, one.get("reasoning_content") or ""))
        for call in one.get("tool_calls") or []:
            found += [(number, call["function"]["name"]), (number, call["function"]["arguments"]["colour"])]
    return [(number, text) for number, text in found if text.strip()]


def is_in(text: str, whole: str) -> bool:
    """Return whether a text is included as it is, as JSON, or as a Python string."""
    text = text.strip()
    as_json = json.dumps(text, ensure_ascii=False)[1:-1]
    as_python = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return any(one in whole for one in (text, as_json, json.dumps(text)[1:-1], as_python))


# ---- the table of templates ---------------------------------------------------------------------------------------------

PLAY = {
    "plain": 72,
    "parts": 72,
    "system": 70,
    "earlier thinking in a field": 72,
    "earlier thinking in the text": 72,
    "one tool round trip": 46,
    "parallel calls": 42,
    "text beside a call": 40,
}
"""How many of TRL's 72 templates play each shape of conversation."""


@pytest.mark.parametrize("shape", SHAPES)
def test_every_template_of_trls_plays_a_shape_or_refuses_it(shape: str) -> None:
    """If it plays the shape, the tokens include everything; a refusal names the message, or quotes the template."""
    counts: Counter[bool] = Counter()
    reasons: list[str] = []
    for path in TEMPLATES:
        template, messages = template_of(path), SHAPES[shape]
        try:
            pair = encoded(template, *messages)
        except TemplateError as error:
            counts[False] += 1
            reasons.append(str(error))
            continue
        counts[True] += 1
        whole, last = text_of(template, pair), len(messages) - 1
        for number, text in texts_in(messages):
            if number >= 0 or number == -last - 1 or notes.EARLIER_THINKING not in pair.notes:
                assert is_in(text, whole), (path.stem, text)
        assert "'type'" not in whole
        assert "{'" not in whole
        real = template.tokenizer.decode(pair.real_ids)
        assert all(is_in(text, real) for number, text in texts_in(messages) if number in (last, -last - 1)), path.stem
    message_or_quote = r"message \d\b.*role '\w+'|'[^' ]*<[/|]?\w+"
    assert all(re.search(message_or_quote, reason) for reason in reasons), reasons
    if shape in PLAY:
        assert counts[True] == PLAY[shape]


# ---- the form that a template understands -------------------------------------------------------------------------------


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def test_parts_become_text_where_the_template_wants_text() -> None:
    """Interpolating a list would print it as Python does."""
    template = chatml()
    pair = encoded(template, message(U, parts("Which ", "boat?")), message(A, parts("It's\nred.")))
    assert text_of(template, pair) == (
        "<|im_start|>user\nWhich boat?<|im_end|>\n<|im_start|>assistant\nIt's\nred.<|im_end|>"
    )
    assert pair == encoded(template, message(U, "Which boat?"), message(A, "It's\nred."))


def test_text_becomes_parts_where_the_template_wants_parts() -> None:
    """SmolVLM's template ignores content that is text."""
    template = template_of(named("smolvlm"))
    pair = encoded(template, message(U, "Which boat?"), message(A, "It's red."))
    assert "Which boat?" in text_of(template, pair)
    assert pair == encoded(template, message(U, parts("Which boat?")), message(A, parts("It's red.")))


def test_parts_that_are_no_text_are_refused_by_their_message() -> None:
    """An image can't be turned into text tokens."""
    content = [{"type": "image_url", "image_url": {"url": "x"}}, *parts("Which?")]
    with refused(DataError, "message 0", "role 'user'", "content", "'image_url'"):
        encoded(chatml(), message(U, content), message(A, "A boat."))


@pytest.mark.parametrize("as_text", [False, True], ids=["object", "JSON"])
@pytest.mark.parametrize("stem", ["qwen2_5", "deepseekv3", "gptoss"])
def test_arguments_are_given_as_the_template_wants_them(stem: str, as_text: bool) -> None:
    """Some templates take an object, some JSON: the tokens are the same, and the JSON is valid."""
    template = template_of(named(stem))
    arguments = {"colour": 'a "dark"\nred', "deep": {"list": [1, 2.5, None, True]}}
    call = {
        "type": "function",
        "function": {"name": "f", "arguments": json.dumps(arguments) if as_text else arguments},
    }
    pair = encoded(
        template,
        message(U, "Which?"),
        message(A, "", tool_calls=[call]),
        message("tool", "3", name="f"),
        message(A, "A boat."),
    )
    whole = text_of(template, pair)
    found, _ = json.JSONDecoder().raw_decode(whole[whole.index('{"colour"') :])
    assert found == arguments


# ---- what is refused ----------------------------------------------------------------------------------------------------

SKIPS_TOOLS = (
    "{% for m in messages %}{% if m['role'] in ['user', 'assistant'] and m['content'] %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SKIPPED = {
    "a tool's result": ([message("tool", "3 found.")], ("content", "message 1", "role 'tool'")),
    "a call": ([message(A, "", tool_calls=CALLS[:1])], ("tool call", "message 1", "role 'assistant'")),
    "a role that it does not know": ([message("developer", "No.")], ("content", "message 1", "role 'developer'")),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_a_turn_that_the_template_skips_refuses_the_row(name: str) -> None:
    """The error has the number of the row and of the message."""
    skipped, what = SKIPPED[name]
    rows = [[message(U, "Hi."), message(A, "Hi.")], [message(U, "Which?"), *skipped, message(A, "A boat.")]]
    dataset = Dataset.from_list([{"messages": rows[0]}, {"messages": rows[1]}])
    with refused(TemplateError, "Row 1", "leaves out", *what):
        prepare_and_count(dataset, chatml(SKIPS_TOOLS))


def test_a_system_message_that_the_template_drops_refuses_the_row() -> None:
    with refused(TemplateError, "leaves out", "content", "message 0", "role 'system'"):
        encoded(chatml(SKIPS_TOOLS), message("system", "Be brief."), message(U, "Which?"), message(A, "A boat."))


def test_a_text_that_stands_elsewhere_too_does_not_hide_that_it_is_missing() -> None:
    """The prompt contains the same word as the dropped turn."""
    with refused(TemplateError, "leaves out", "content", "message 1"):
        encoded(chatml(SKIPS_TOOLS), message(U, "a boat"), message("tool", "a"), message(A, "a"))


@pytest.mark.parametrize(
    ("write", "what"),
    [
        ("m['content'] | upper", ("leaves out", "message 0")),
        ("m['content'] | tojson", ("changes", "content", "message 0")),
        ("m['content'][:9]", ("changes", "content", "message 0")),
        ("m['content'] + m['content']", ("once", "content", "message 1", "the answer")),
    ],
)
def test_a_template_that_changes_texts_is_refused(write: str, what: tuple[str, ...]) -> None:
    """The row is refused even if its own text would not show the change."""
    source = tiny.CHATML.replace("m['content']", write) if "m['content']" in tiny.CHATML else None
    source = source or (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ " + write + " }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with refused(TemplateError, *what):
        encoded(chatml(source), message(U, "7"), message(A, "8"))


def test_thinking_of_the_answer_must_not_be_left_out() -> None:
    """The answer's thinking is trained on; only that of earlier answers may be omitted."""
    messages = SHAPES["thinking of the answer"]
    with refused(TemplateError, "leaves out", "thinking", "message 1", "role 'assistant'", "the answer"):
        encoded(chatml(), *messages)


def test_where_a_template_begins_to_fail_is_said() -> None:
    """The error quotes the template, and names the message at which it fails."""
    complaint = "System role not supported"
    with refused(TemplateError, complaint, "message 0", "role 'system'"):
        encoded(template_of(named("gemma")), *SHAPES["system"])


def test_a_template_that_looks_at_the_text_is_looked_at_by_row() -> None:
    """A template that omits a turn containing a certain word is refused for the rows that have it."""
    source = (
        "{% for m in messages %}{% if 'secret' not in m['content'] %}<|im_start|>{{ m['role'] }}\n"
        "{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    template = chatml(source)
    turns = [message(U, "One?"), message(A, "1."), message(U, "Two?")]
    assert encoded(template, *turns, message(A, "2.")).notes == frozenset()
    with refused(TemplateError, "leaves out", "content", "message 0"):
        encoded(template, message(U, "A secret, a long one."), *turns[1:], message(A, "2."))


def test_a_template_may_read_a_text_as_long_as_it_writes_all_of_it() -> None:
    """Qwen3's template looks for tool results in the user's text."""
    template = template_of(named("qwen3"))
    result = "<tool_response>\n3 found.\n</tool_response>"
    turns = [
        message(U, "Which?"),
        message(A, "Let me see."),
        message(U, result),
        message(A, "<think>\nThree.\n</think>\n\nA boat."),
    ]
    pair = encoded(template, *turns)
    assert result in text_of(template, pair)
    assert template.tokenizer.decode(pair.real_ids) == "<think>\nThree.\n</think>\n\nA boat.<|im_end|>"


@pytest.mark.parametrize("as_parts", [False, True], ids=["text", "parts"])
def test_an_empty_thinking_block_of_the_row_is_part_of_its_answer(as_parts: bool) -> None:
    """It belongs to the prompt only if the template itself writes it before every answer."""
    text = "<think>\n\n</think>\n\nA boat."
    answer = message(A, parts(text) if as_parts else text)
    for stem, expected in (("qwen2_5", text), ("qwen3", "A boat.")):
        template = template_of(named(stem))
        pair = encoded(template, message(U, "Which?"), answer)
        assert template.tokenizer.decode(pair.real_ids) == expected + "<|im_end|>"
        assert text_of(template, pair).count("<think>") == 1


def test_an_answer_that_thinks_cant_stand_where_thinking_is_turned_off() -> None:
    """The error shows the answer's thinking and the setting that turns it off."""
    tokenizer = family_tokenizer(named("qwen3"))
    template = PairTemplate(tokenizer, chat_template_kwargs={"enable_thinking": False})
    with refused(TemplateError, r"'\n</think>\n\n'", r"'...\n</think>\n\n..."):
        encoded(template, *SHAPES["plain"][:1], message(A, "<think>\nHm.\n</think>\n\nA boat."))


# ---- what is noted ------------------------------------------------------------------------------------------------------


def noted(rows: list[list[dict[str, Any]]], template: PairTemplate, **options: Any) -> dict[str, tuple[int, int]]:
    return prepare_and_count(Dataset.from_list([{"messages": row} for row in rows]), template, **options).notes


def test_outer_space_and_earlier_thinking_are_counted_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """The note names the first row affected; unaffected rows are not counted."""
    plain = [message(U, "Which?"), message(A, "A boat.")]
    thinks = [message(U, "Which?"), message(A, "<think>\nHm.\n</think>\n\nA boat."), *plain]
    spaced = [message(U, " Which?\n"), message(A, "A boat.")]
    found = noted([plain, thinks, plain, thinks], template_of(named("qwen3")))
    assert found == {notes.EARLIER_THINKING: (2, 1)}
    (told,) = [message for message in caplog.messages if names(message, "thinking")]
    assert names(told, 2, "train", "row 1", "thinking", "earlier answers")
    assert noted([plain, plain, spaced], template_of(named("llama3"))) == {notes.SPACE: (1, 2)}
    assert noted([plain, plain, spaced], chatml()) == {}


def test_tools_that_the_template_does_not_show_are_named() -> None:
    """DeepSeek-V3's template writes calls and results, but not the tools."""
    tools = [{"type": "function", "function": {"name": "find_boat", "description": "Finds.", "parameters": {}}}]
    for stem, expected in (("deepseekv3", {notes.TOOLS}), ("qwen2_5", set())):
        pair = encoded(template_of(named(stem)), *SHAPES["one tool round trip"], tools=tools)
        assert set(pair.notes) - {notes.RECORDED_START} == expected


def test_the_prompt_holds_a_rows_own_tools() -> None:
    """It does, although kinds of conversation are distinguished without tools."""
    template = template_of(named("qwen2_5"))
    for name in ("find_boat", "find_lamp"):
        tools = [{"type": "function", "function": {"name": name, "parameters": {}}}]
        prompt = template.tokenizer.decode(encoded(template, *SHAPES["plain"], tools=tools).prompt_ids)
        assert f'"name": "{name}"' in prompt
        assert "Qz" not in prompt


# ---- kinds --------------------------------------------------------------------------------------------------------------


def test_a_kind_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After that, each row is rendered once."""
    template = chatml()
    calls = Counter[str]()
    apply = template._renderer.apply

    def counting(*arguments: Any, **more: Any) -> str:
        calls["rendered"] += 1
        return apply(*arguments, **more)

    monkeypatch.setattr(template._renderer, "apply", counting)
    encoded(template, message(U, "Which?"), message(A, "A boat."))
    first = calls["rendered"]
    for number in range(10):
        encoded(template, message(U, f"Which {number}?"), message(A, f"Boat {number}."))
    assert calls["rendered"] == first + 10


def test_kinds_are_bounded_and_do_not_travel_to_other_processes() -> None:
    """A dataset may have as many kinds as rows."""
    template = chatml()
    for number in range(1, REMEMBERED_KINDS + 50):
        encoded(
            template,
            *[message(U, "a"), message(A, "b")] * number if number < 8 else [message(f"u{number}", "a")],
            message(A, "b"),
        )
    assert len(template._renderer._kinds) <= REMEMBERED_KINDS
    assert not pickle.loads(pickle.dumps(template._renderer))._kinds


# ---- any conversation ---------------------------------------------------------------------------------------------------

WORDS = st.lists(
    st.sampled_from(
        [
            "a",
            "b ",
            " ",
            "\n",
            "é",
            "日",
            "'",
            '"',
            "\\",
            "{{ x }}",
            "<think>",
            "</think>",
            "<tool_response>",
            "</s>",
            "{'a': 1}",
        ]
    ),
    min_size=1,
    max_size=8,
).map("".join)
TEXTS = WORDS.filter(lambda text: bool(text.strip()))


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Generate any conversation that ends with an answer."""
    messages = [message("system", draw(TEXTS))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        messages.append(message(U, draw(TEXTS)))
        if draw(st.booleans()):
            arguments = {"colour": draw(TEXTS), "number": draw(st.integers(0, 9))}
            call = {**CALLS[0], "function": {"name": "find_boat", "arguments": arguments}}
            messages += [
                message(A, draw(st.just("") | TEXTS), tool_calls=[call]),
                {**RESULTS[0], "content": draw(TEXTS)},
            ]
        messages.append(message(A, draw(TEXTS)))
    if draw(st.booleans()):
        for one in messages:
            if one["content"]:
                one["content"] = parts(one["content"])
    return messages


SOME = (
    "qwen3",
    "qwen2_5",
    "llama3_1",
    "gemma4",
    "gptoss",
    "deepseekv3",
    "smolvlm",
    "lfm2_v2",
    "phi3",
    "nemotron_3_nano",
    "glm4moe",
)


@pytest.mark.parametrize("stem", SOME)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(messages=conversations())
def test_what_is_in_a_conversation_is_in_its_tokens_or_refused_or_noted(
    stem: str, messages: list[dict[str, Any]]
) -> None:
    """This holds for any texts."""
    template = _templates.setdefault(stem, template_of(named(stem)))
    try:
        pair = encoded(template, *messages)
    except DataError:
        return
    whole, real = text_of(template, pair), template.tokenizer.decode(pair.real_ids)
    last = len(messages) - 1
    for number, text in texts_in(messages):
        is_answers = number in (last, -last - 1)
        if is_answers or number >= 0 or notes.EARLIER_THINKING not in pair.notes:
            where = real if is_answers and notes.NO_THINKING not in pair.notes else whole
            assert is_in(text, where), (text, whole)


_templates: dict[str, PairTemplate] = {}
