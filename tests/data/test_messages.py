"""Messages of every dialect are converted to OpenAI's without loss; those that can't be are refused by name."""

import json
from typing import Any

import pytest
from datasets import Dataset

from messages import refused
from spin_trl.data.messages import ROLES, as_messages
from spin_trl.data.turns import tools_of
from spin_trl.errors import DataError

U, A = {"role": "user", "content": "What does it cost?"}, {"role": "assistant", "content": "It costs 7."}


def read(messages: Any) -> list[dict[str, Any]]:
    return as_messages(messages, "messages", {})


def call(arguments: Any, name: str = "price") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


# ---- roles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "expected"),
    [("human", "user"), ("user", "user"), ("gpt", "assistant"), ("chatgpt", "assistant"), ("bing", "assistant"),
     ("assistant", "assistant"), ("observation", "tool"), ("tool", "tool"), ("system", "system"),
     ("developer", "developer"), ("User", "user"), ("Assistant", "assistant"), ("Human", "user"), ("GPT", "assistant"),
     ("SYSTEM", "system"), ("ai", "assistant"), ("bot", "assistant"), ("Function-Response", "tool")],
)  # fmt: skip
def test_roles_have_one_name_each(role: str, expected: str) -> None:
    """These are ShareGPT's and OpenAI's names, in any case, under both names of the field."""
    assert read([{"from": role, "value": "x"}]) == read([{"role": role, "content": "x"}])
    assert read([{"from": role, "value": "x"}]) == [{"role": expected, "content": "x"}]


@pytest.mark.parametrize("role", ["critic", "narrator", "", "expert"])
def test_an_unknown_role_is_refused_by_name(role: str) -> None:
    """It is refused in every position, since templates ignore roles that they do not know."""
    with refused(DataError, "message 2", "`messages`", "role", repr(role)):
        read([U, A, {"role": role, "content": "x"}])
    assert role not in ROLES


@pytest.mark.parametrize("as_list", [False, True])
def test_a_sharegpt_function_call_is_an_assistants_tool_call(as_list: bool) -> None:
    """It may be one call or a list; `observation` is the tool's answer."""
    calls = [{"name": "price", "arguments": {"id": 3}}, {"name": "stock", "arguments": {"id": 3, "shop": None}}]
    calls = calls if as_list else calls[:1]
    found = read([{"from": "function_call", "value": json.dumps(calls if as_list else calls[0])}])
    assert found == [{"role": "assistant", "tool_calls": [call(one["arguments"], str(one["name"])) for one in calls]}]
    assert read([{"from": "observation", "value": '{"price": 7}'}]) == [{"role": "tool", "content": '{"price": 7}'}]


def test_what_openai_called_function_call_is_a_tool_call() -> None:
    message = {"role": "assistant", "content": None, "function_call": {"name": "price", "arguments": '{"id": 3}'}}
    assert read([message]) == [{"role": "assistant", "tool_calls": [call({"id": 3})]}]


def test_a_message_of_two_dialects_loses_nothing_to_arrows_nulls() -> None:
    rows = Dataset.from_list([{"messages": [U, A]}, {"messages": [{"from": "human", "value": "Hi"}]}])
    assert [read(row["messages"]) for row in rows] == [[U, A], [{"role": "user", "content": "Hi"}]]


# ---- content --------------------------------------------------------------------------------------------------------


def test_parts_that_are_text_stay_parts() -> None:
    """The template decides between text and parts."""
    parts = [{"type": "text", "text": "It "}, {"type": "text", "text": "costs 7."}]
    assert read([{"role": "assistant", "content": parts}])[0]["content"] == parts
    filled = [{**part, "image_url": None} for part in parts]
    assert read([{"role": "assistant", "content": filled}])[0]["content"] == parts


BAD_MESSAGES: dict[str, tuple[Any, tuple[object, ...]]] = {
    "no list": ({"role": "user"}, ("`messages`", '{"role": "user"}', "list")),
    "null": (None, ("`messages`", "null", "list")),
    "text as a message": (["x"], ("message 0", "`messages`", "'x'", "role")),
    "no role": ([{"content": "x"}], ("message 0", "`messages`", "role", '{"content": "x"}')),
    "a number as role": (
        [{"role": 3, "content": "x"}],
        ("message 0", "`messages`", "role", '{"role": 3, "content": "x"}'),
    ),
    "a number": (
        [U, {"role": "assistant", "content": 7}],
        ("content", "message 1", "assistant", 7),
    ),
    "a truth value": ([{"role": "user", "content": True}], ("content", "message 0", "(true)")),
    "an object": ([{"role": "user", "content": {"price": 7}}], ("content", "message 0", '({"price": 7})')),
    "no content": ([{"role": "user", "content": None}], ("message 0", "user", "`role`, `content`")),
    "content by another name": ([{"role": "user", "text": "x"}], ("message 0", "user", "`role`, `text`")),
    "texts without roles": (["Which?", "A boat."], ("message 0", "'Which?'", '{"role": "user", "content": ...}')),
    "an image": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}],
        ("message 0", "`messages`", "user", "type", "'image_url'"),
    ),
    "sound": (
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
        ("message 0", "type", "'input_audio'"),
    ),
    "a part without text": (
        [{"role": "user", "content": [{"type": "text"}]}],
        ("part", "content", '{"type": "text"}', "`text`"),
    ),
    "a part that is text": ([{"role": "user", "content": ["x"]}], ("part", "content", "message 0", "'x'")),
    "a part with more than text": (
        [{"role": "user", "content": [{"type": "text", "text": "x", "image_url": "a.png"}]}],
        ("part", "content", "message 0", "'image_url'", "text"),
    ),
    "a call that is no JSON": ([{"from": "function_call", "value": "price(3)"}], ("message 0", "JSON", "'price(3)'")),
    "a call without a name": (
        [{"role": "assistant", "tool_calls": [{"id": "1"}]}],
        ("tool call 0", "message 0", '{"id": "1"}', "function"),
    ),
    "calls that are no list": (
        [{"role": "assistant", "tool_calls": {"name": "price"}}],
        ("tool calls", "message 0", "list"),
    ),
    "arguments that are no JSON": (
        [{"role": "assistant", "tool_calls": [call("id=3")]}],
        ("arguments", "tool call 0", "JSON", "'id=3'"),
    ),
    "arguments that are a list": (
        [{"role": "assistant", "tool_calls": [call([3])]}],
        ("arguments", "tool call 0", "[3]", "object"),
    ),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_what_is_no_message_is_refused_by_name(name: str) -> None:
    messages, named = BAD_MESSAGES[name]
    with refused(DataError, *named):
        read(messages)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"name": "é", "price": None}, '{"name": "é", "price": null}'),
        ([{"type": "sloop", "id": 1}], '[{"type": "sloop", "id": 1}]'),
        (["a", 2], '["a", 2]'),
        (7, "7"),
        (False, "false"),
        ("plain", "plain"),
        ([{"type": "text", "text": "a"}], [{"type": "text", "text": "a"}]),
    ],
)
@pytest.mark.parametrize("role", ["tool", "observation", "ipython"])
def test_a_tools_result_of_any_kind_is_written_as_json(role: str, result: Any, text: Any) -> None:
    """Templates write JSON. Text and parts are unchanged."""
    assert read([U, A, {"role": role, "content": result}])[2]["content"] == text


# ---- tool calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [json.dumps, lambda arguments: arguments], ids=["JSON", "object"])
def test_arguments_are_an_object_and_keep_their_nulls(written: Any) -> None:
    """OpenAI writes them as text; templates expect an object."""
    arguments = {"id": 3, "shop": None, "of": {"x": None}}
    found = read([{"role": "assistant", "content": None, "tool_calls": [call(written(arguments))]}])
    assert found == [{"role": "assistant", "tool_calls": [call(arguments)]}]


def test_a_call_may_be_written_flat() -> None:
    flat = {"id": "c1", "name": "price", "arguments": '{"id": 3}'}
    assert read([{"role": "assistant", "tool_calls": [flat]}])[0]["tool_calls"] == [{"id": "c1", **call({"id": 3})}]
    llama = {"name": "price", "parameters": {"id": 3}}
    assert read([{"role": "assistant", "tool_calls": [llama]}])[0]["tool_calls"] == [call({"id": 3})]


def conversation(*calls: Any) -> dict[str, Any]:
    return {"messages": [U, {"role": "assistant", "content": None, "tool_calls": list(calls)}]}


# ---- tools ----------------------------------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "price", "parameters": {"properties": {"id": {"type": "integer"}}}}}


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), [json.dumps(TOOL)]], ids=["list", "JSON", "JSON each"])
def test_tools_are_a_list_however_they_are_written(tools: Any) -> None:
    assert tools_of({"tools": tools}, is_struct=False) == [TOOL]


def test_tools_are_without_what_arrow_fills_in() -> None:
    """A schema that Arrow copied from another row's tool is removed."""
    other = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"city": {"type": "string"}}}}}
    rows = Dataset.from_list([{"tools": [TOOL]}, {"tools": [other]}])
    assert rows[0]["tools"] != [TOOL]
    assert tools_of(rows[0], is_struct=True) == [TOOL]


@pytest.mark.parametrize("tools", [None, "", " ", [], "[]"])
def test_no_tools_are_no_tools(tools: Any) -> None:
    assert tools_of({"tools": tools}, is_struct=False) is None


@pytest.mark.parametrize("tools", ["{", "3", [3], {"name": "price"}])
def test_other_tools_are_refused(tools: Any) -> None:
    shown = tools if isinstance(tools, str) else json.dumps(tools)
    with refused(DataError, "`tools`", shown):
        tools_of({"tools": tools}, is_struct=False)
