"""All content of a row ends up in prompt and response, whichever columns hold it; and the turns to train on are chosen."""

import json
from typing import Any

import pytest
from datasets import Dataset

import tiny
from messages import names, refused
from spin_trl.data.load import as_conversations, load_rows, rename_columns
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.errors import DataError

HUMAN, GPT = {"from": "human", "value": "Which?"}, {"from": "gpt", "value": "A boat."}
USER, ANSWER = {"role": "user", "content": "Which?"}, {"role": "assistant", "content": "A boat."}
SYSTEM = {"from": "system", "value": "Be brief."}
ALPACA = {"instruction": "Sort these.", "input": "b a", "output": "a b"}
MAPPING = {"instruction": "prompt", "output": "completion"}


def chat(*messages: tuple[str, str]) -> str:
    """Return a conversation as ChatML, up to where the answer begins."""
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages) + "<|im_start|>assistant\n"


def prepared(rows: list[dict[str, Any]] | Dataset, **options: Any) -> list[tuple[str, str]]:
    tokenizer = tiny.tokenizer()
    found = prepare(rows if isinstance(rows, Dataset) else Dataset.from_list(rows), PairTemplate(tokenizer), **options)
    return [(tokenizer.decode(row["prompt_ids"]), tokenizer.decode(row["real_ids"])) for row in found]


# ---- system prompts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_a_system_column_becomes_a_system_turn(column: str) -> None:
    """Empty, blank and missing values give none."""
    rows = [{column: [HUMAN, GPT], "system": system} for system in ("Be brief.", "", " \n", None)]
    plain = (chat(("user", "Which?")), "A boat.<|im_end|>")
    assert prepared(rows) == [(chat(("system", "Be brief."), ("user", "Which?")), plain[1]), plain, plain, plain]


def test_a_system_turn_and_the_same_column_are_one() -> None:
    rows = [{"conversations": [SYSTEM, HUMAN, GPT], "system": "Be brief."}]
    assert prepared(rows)[0][0] == chat(("system", "Be brief."), ("user", "Which?"))


def test_a_system_turn_and_another_column_are_refused() -> None:
    rows = [{"conversations": [SYSTEM, HUMAN, GPT], "system": "Be long."}]
    with refused(DataError, "Row 0", "'Be brief.'", "`system`", "'Be long.'"):
        prepared(rows)


def test_a_system_prompt_that_is_no_text_is_refused() -> None:
    with refused(DataError, "`system`", 3):
        prepared([{"conversations": [HUMAN, GPT], "system": 3}])


def test_text_has_a_system_prompt_where_it_is_a_conversation() -> None:
    rows = Dataset.from_list([{"prompt": "Which?", "completion": "A boat.", "system": "Be brief."}])
    assert prepared(rows) == [("Which?", "A boat.<|im_end|>")]
    assert prepared(as_conversations(rows)) == [
        (chat(("system", "Be brief."), ("user", "Which?")), "A boat.<|im_end|>")
    ]


# ---- Alpaca ---------------------------------------------------------------------------------------------------------


def test_alpacas_input_stands_behind_its_instruction() -> None:
    """A blank line separates them, unless the input is empty."""
    rows = [ALPACA, {**ALPACA, "input": ""}, {**ALPACA, "input": None}]
    assert [prompt for prompt, _ in prepared(rows)] == [
        chat(("user", "Sort these.\n\nb a")),
        chat(("user", "Sort these.")),
        chat(("user", "Sort these.")),
    ]
    assert prepared(rows)[0][1] == "a b<|im_end|>"
    assert prepared([{"instruction": "Sort.", "output": "a"}]) == [(chat(("user", "Sort.")), "a<|im_end|>")]


def test_alpacas_history_is_earlier_turns() -> None:
    """They come before the instruction and after the system prompt; only the output is trained on."""
    rows = [
        {**ALPACA, "system": "Be brief.", "history": [["Hi", "Hello"], ["How?", "Well"]]},
        {**ALPACA, "history": []},
    ]
    expected = chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "How?"),
                    ("assistant", "Well"), ("user", "Sort these.\n\nb a"))  # fmt: skip
    assert prepared(rows, turn="all") == [
        (expected, "a b<|im_end|>"),
        (chat(("user", "Sort these.\n\nb a")), "a b<|im_end|>"),
    ]


@pytest.mark.parametrize("history", [[["a"]], [["a", "b", "c"]], "x", [["a", None]]])
def test_a_history_that_is_no_pairs_is_refused(history: Any) -> None:
    shown = f"'{history}'" if isinstance(history, str) else json.dumps(history[0])
    with refused(DataError, "`history`", shown):
        prepared([{**ALPACA, "history": history}])


def test_a_mapping_keeps_what_belongs_to_the_prompt() -> None:
    """The result is the same as without a mapping, as text and as a conversation."""
    rows = Dataset.from_list([{**ALPACA, "system": "Be brief.", "history": [["Hi", "Hello"]]}])
    mapped = rename_columns(rows, MAPPING)
    assert prepared(as_conversations(mapped)) == prepared(rows)
    assert prepared(mapped) == [("Sort these.\n\nb a", "a b<|im_end|>")]


def test_an_input_beside_another_prompt_is_not_appended() -> None:
    """It may be anything, so it is only named; a user who maps a column to `input` says what it is."""
    rows = Dataset.from_list([{"prompt": "Sort these.", "completion": "a b", "input": "b a"}])
    assert prepared(as_conversations(rows))[0][0] == chat(("user", "Sort these."))
    dolly = Dataset.from_list([{"instruction": "Sort these.", "context": "b a", "response": "a b"}])
    mapping = {"instruction": "prompt", "response": "completion"}
    assert prepared(as_conversations(rename_columns(dolly, mapping)))[0][0] == chat(("user", "Sort these."))
    for name in ("input", "prompt_input"):
        mapped = rename_columns(dolly, {**mapping, "context": name})
        assert prepared(as_conversations(mapped))[0][0] == chat(("user", "Sort these.\n\nb a"))


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({**ALPACA, "instruction": "", "input": ""}, ("instruction", "empty")),
        ({**ALPACA, "output": " "}, ("output", "empty")),
        ({**ALPACA, "output": None}, ("output", "empty")),
        ({**ALPACA, "output": 4}, ("`output`", 4)),
        ({**ALPACA, "input": 4}, ("`input`", 4)),
        ({"prompt": None, "completion": "b"}, ("prompt", "null")),
        ({"prompt": 3, "completion": "b"}, ("`prompt`", 3)),
        ({"prompt": "a", "completion": ["b"]}, ("`completion`", "texts")),
        ({"prompt": "a", "completion": [GPT]}, ("prompt", "completion", "both")),
        (
            {"prompt": json.dumps([HUMAN]), "completion": json.dumps([GPT])},
            ("`prompt`", "`completion`", "`json.loads`"),
        ),
        ({"messages": [HUMAN, {"from": "gpt", "value": None}, HUMAN, GPT]}, ("message 1", "assistant", "content")),
        ({"messages": 3}, ("`messages`", 3)),
        ({"messages": None}, ("`messages`", "null")),
        (
            {"messages": [HUMAN, GPT], "conversations": [HUMAN, {**GPT, "value": "x"}]},
            ("`conversations`", "`messages`"),
        ),
        ({"messages": [HUMAN, GPT], "chat_template_kwargs": "{"}, ("`chat_template_kwargs`", "JSON", "'{'")),
        ({"messages": [HUMAN, GPT], "chat_template_kwargs": [1]}, ("`chat_template_kwargs`", "[1]")),
    ],
    ids=[
        "empty instruction",
        "blank output",
        "no output",
        "a number as output",
        "a number as input",
        "no prompt",
        "a number as prompt",
        "several completions",
        "text before messages",
        "messages in JSON text",
        "no content",
        "a number as messages",
        "no messages",
        "two conversations",
        "arguments that are no JSON",
        "arguments that are a list",
    ],
)
def test_a_row_of_the_wrong_kind_is_refused_by_what_is_wrong(row: dict[str, Any], named: tuple[object, ...]) -> None:
    """There is never a traceback."""
    with refused(DataError, "Row 0", *named):
        prepared([row])


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "return_dict", "continue_final_message"])
def test_a_rows_template_arguments_are_none_of_what_applies_the_template(name: str) -> None:
    """Some would fail, others would be obeyed silently. `null`, which Arrow fills in, counts as absent."""
    with refused(DataError, "Row 0", "`chat_template_kwargs`", f"'{name}'"):
        prepared([{"messages": [HUMAN, GPT], "chat_template_kwargs": {name: True}}])
    prepared([{"messages": [HUMAN, GPT], "chat_template_kwargs": {name: None, "style": "terse"}}])


# ---- marked turns ---------------------------------------------------------------------------------------------------


def marked(first: Any, second: Any, name: str = "weight") -> dict[str, Any]:
    turns = [
        HUMAN,
        {**GPT, name: first},
        {"from": "human", "value": "Why?"},
        {"from": "gpt", "value": "Red.", name: second},
    ]
    return {"conversations": turns}


@pytest.mark.parametrize("name", ["weight", "train"])
@pytest.mark.parametrize(
    ("first", "second", "turn", "answers"),
    [(0, 1, "first", ["Red."]), (1, 0, "last", ["A boat."]), (True, False, "last", ["A boat."]), (0, 1, "all", ["Red."]),
     (1, 1, "all", ["A boat.", "Red."]), (None, None, "all", ["A boat.", "Red."]), (0.0, None, "all", ["Red."])],
)  # fmt: skip
def test_marks_choose_the_turns_that_are_trained_on(
    name: str, first: Any, second: Any, turn: str, answers: list[str]
) -> None:
    """Unmarked turns stay in the prompt of later turns; the marks themselves reach no template."""
    found = prepared([marked(first, second, name)], turn=turn)
    assert [real for _, real in found] == [f"{answer}<|im_end|>" for answer in answers]
    if answers[-1] == "Red.":
        assert found[-1][0] == chat(("user", "Which?"), ("assistant", "A boat."), ("user", "Why?"))


@pytest.mark.parametrize("value", [0.5, 2, -1, "1", "true"])
def test_other_marks_are_refused(value: Any) -> None:
    with refused(DataError, "`weight`", "message 1", f"({value!r})"):
        prepared([marked(value, value)])


def test_marks_that_leave_nothing_or_ask_for_more_are_refused() -> None:
    with refused(DataError, "assistant", "`weight`", "`train`"):
        prepared([marked(0, 0)])
    with refused(DataError, "message 0", "`conversations`", "human", "assistant turns"):
        prepared([{"conversations": [{**HUMAN, "train": True}, GPT]}])
    with refused(DataError, "message 1", "`conversations`", "`weight`", "`train`"):
        prepared([{"conversations": [HUMAN, {**GPT, "weight": 1, "train": False}]}])


def test_a_marked_turn_that_is_not_trained_on_is_named(caplog: pytest.LogCaptureFixture) -> None:
    prepared([marked(None, None), marked(1, 1), marked(1, 1)])
    assert names(caplog.text, 2, "train", "row 1", "`train_on_turn`", "`all`")
    caplog.clear()
    prepared([marked(1, 1)], turn="all")
    assert caplog.text == ""


# ---- content in parts --------------------------------------------------------------------------------------------------

PARTS = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- for part in message['content'] %}{{ part['text'] }}{%- endfor %}{{ '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)


def test_what_scorers_and_samples_see_of_parts_is_their_text() -> None:
    """They see neither a list, nor JSON, nor Python's notation."""

    def parts(*texts: str) -> list[dict[str, Any]]:
        return [{"type": "text", "text": text} for text in texts]

    row = {
        "messages": [
            {"role": "user", "content": parts("Which", "?")},
            {"role": "assistant", "content": parts("A boat.")},
        ]
    }
    tokenizer = tiny.tokenizer(chat_template=PARTS)
    found = prepare(Dataset.from_list([row]), PairTemplate(tokenizer))[0]
    assert (found["prompt"], found["real"]) == ("Which?", "A boat.")
    assert tokenizer.decode(found["prompt_ids"]) == chat(("user", "Which?"))


# ---- mixed columns --------------------------------------------------------------------------------------------------


def test_what_has_no_place_in_a_row_of_text_is_refused(tmp_path) -> None:
    """If all rows are text, the column is only named; here, other rows need it."""
    (tmp_path / "mixed.jsonl").write_text(
        '{"prompt": [{"role": "user", "content": "Why?"}], "completion": [{"role": "assistant", "content": "Red."}], '
        '"system": ""}\n{"prompt": "Which?", "completion": "A boat.", "system": "Be brief."}',
        encoding="utf-8",
    )
    with refused(DataError, "Row 1", "`system`", "`as_conversations: true`"):
        prepared(load_rows(str(tmp_path / "mixed.jsonl")))


# ---- identity -------------------------------------------------------------------------------------------------------


def test_a_prompts_hash_is_what_it_was() -> None:
    """The hash decides which prompts are held out. It was computed with version 0.1.0, for messages that are now read
    differently.
    """
    call = {"type": "function", "function": {"name": "price", "arguments": '{"id": 3}'}}
    rows = [
        {"conversations": [HUMAN, GPT]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "7"}, ANSWER]},
        {"messages": [{**HUMAN, "weight": 0}, {**GPT, "weight": 1}]},
    ]
    found = [prepare(Dataset.from_list([row]), PairTemplate(tiny.tokenizer()))[0]["prompt_hash"] for row in rows]
    assert found == ["76e77c77ad2017602b6c", "186b59133859593b8070", "18f8826c88741586e1c0"]


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_messages_may_be_a_text_of_json(column: str) -> None:
    """Parquet files often hold them this way. The conversation is the same as in a list, and held out with it."""
    messages = [{"role": "user", "content": "7"}, {"role": "assistant", "content": "true"}]
    rows = [{column: json.dumps(messages)}, {column: messages}]
    assert prepared([rows[0]]) == prepared([rows[1]]) == [(chat(("user", "7")), "true<|im_end|>")]
    template = PairTemplate(tiny.tokenizer())
    hashes = [prepare(Dataset.from_list([row]), template)["prompt_hash"][0] for row in rows]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[{'role': 'user', 'content': 'a'}]", "`json.dumps`"),
        ('{"role": "user"}', "JSON"),
        ("", "JSON"),
        ('[{"role": "user", "role": "assistant", "content": "a"}]', "JSON"),
    ],
)
def test_a_text_that_holds_no_messages_is_refused(text: str, expected: str) -> None:
    with refused(DataError, "`messages`", repr(text), expected):
        prepared([{"messages": text}])


@pytest.mark.parametrize(
    "empty", [{"from": "system", "value": None}, {"role": "System", "content": None, "weight": None}]
)
def test_a_system_turn_that_is_null_is_none(empty: dict[str, Any]) -> None:
    """This holds even if a column has the system's turn."""
    dataset = Dataset.from_list([{"conversations": json.dumps([empty, HUMAN, GPT]), "system": "Be brief."}])
    assert prepared([{"conversations": json.dumps([empty, HUMAN, GPT])}]) == prepared(
        [{"conversations": [HUMAN, GPT]}]
    )
    assert prepared(dataset)[0][0].startswith("<|im_start|>system\nBe brief.<|im_end|>")
    with refused(DataError, "message 0", "content", "`text`"):
        prepared([{"conversations": json.dumps([{**empty, "text": "Be brief."}, HUMAN, GPT])}])
