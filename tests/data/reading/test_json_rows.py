"""JSON: strings stay strings, numbers stay numbers, nothing is filled in; rows may be lines, a list, or a list under a
key.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets.features import features
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from messages import refused
from spin_trl.data.keys import row_keys
from spin_trl.data.load import as_conversations, load_rows
from spin_trl.data.reading.json_rows import ValueShape
from spin_trl.errors import DataError


def read(path: Path, *rows: Any, as_lines: bool = True) -> list[Any]:
    """Return the rows of a file with this content."""
    if as_lines:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(list(rows), indent=1), encoding="utf-8")
    return list(load_rows(str(path)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file to write."""
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize("as_lines", [True, False], ids=["lines", "list"])
def test_text_that_looks_like_something_else_stays_text(as_lines: bool, path: Path) -> None:
    """Arrow converts dates to timestamps, and `datasets` converts text to numbers in columns of mixed shape."""
    texts = ["2024-01-01", "2024-01-01T00:00:00", "2024-01-01 00:00:00Z", "7", "true", "null", "1.50"]
    rows = [{"prompt": text, "messages": [{"role": "user", "content": text}], "at": {"when": text}} for text in texts]
    assert read(path, *rows, as_lines=as_lines) == rows
    mixed = [
        {"messages": [{"role": "user", "content": text}, {"role": "user", "content": [{"text": text}]}]}
        for text in texts
    ]
    assert read(path, *mixed, as_lines=as_lines) == mixed


def test_numbers_in_objects_of_mixed_shape_stay_what_they_are(path: Path) -> None:
    """`datasets` parses such columns with ujson, which reads 0.6 as 0.6000000000000001 and refuses numbers over 64 bits."""
    calls = [{"x": 0.6}, {"y": 1, "z": None}, {"x": 2**70}, {"x": 1.0}, {"x": 1e-7}]
    rows = [{"messages": [{"role": "assistant", "tool_calls": [{"arguments": call}]}]} for call in calls]
    found = read(path, *rows)
    assert json.dumps(found) == json.dumps(rows)
    texts = [{"prompt": "a", "completion": "b", "call": call} for call in calls]
    read(path, *texts)
    assert [row["call"] for row in as_conversations(load_rows(str(path)))] == calls


def test_no_keys_are_filled_in_below_a_row(path: Path) -> None:
    """A column that a row lacks is null, but a key that a message lacks stays absent, and null stays null."""
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "name": "b"}]},
        {"messages": [{"role": "user", "content": "a"}], "id": 1},
    ]
    assert read(path, *rows) == [{**rows[0], "id": None}, rows[1]]


def test_as_many_keys_as_rows_take_no_memory(path: Path) -> None:
    """Objects keyed by id are stored as JSON: the second row reveals the pattern, and no further keys are collected."""
    rows = [{"calls": {f"call-{number}": {"x": number}}} for number in range(1000)]
    assert read(path, *rows) == rows
    shape = ValueShape(is_row=True)
    for row in rows:
        shape.add(row)
    assert shape.fields is not None
    assert len(shape.fields["calls"].fields or {}) == 1


def test_a_key_that_comes_late_is_not_lost(path: Path) -> None:
    """It is kept whatever the shape of the first thousands of rows."""
    rows: list[Any] = [{"messages": [{"role": "user", "content": "a"}]}] * 3000
    rows = [*rows, {"messages": [{"role": "user", "content": "a", "weight": 0}], "id": "x"}]
    found = read(path, *rows)
    assert found[-1] == rows[-1]
    assert found[0] == {**rows[0], "id": None}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)


def test_text_and_messages_in_one_column_stay_exact_as_conversations(path: Path) -> None:
    """Text is wrapped in a message, and messages stay messages."""
    messages = [{"role": "user", "content": "7", "temperature": 0.123456789012345}]
    read(path, {"prompt": "7", "completion": "null"}, {"prompt": messages, "completion": "true"})
    assert list(as_conversations(load_rows(str(path)))) == [
        {"prompt": [{"role": "user", "content": "7"}], "completion": [{"role": "assistant", "content": "null"}]},
        {"prompt": messages, "completion": [{"role": "assistant", "content": "true"}]},
    ]


@given(values=st.lists(JSON, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_below_a_column_is_read_as_it_was_written(values: list[Any], path: Path) -> None:
    """Neither its own shape nor that of other rows matters."""
    rows = [{"prompt": "a", "extra": [value]} for value in values]
    assert json.dumps(read(path, *rows)) == json.dumps(rows)


def test_uniform_rows_have_the_same_keys_as_before(path: Path) -> None:
    """Generations of earlier runs are matched to rows by these keys."""
    for kind in ("messages", "multi-turn", "prompt-completion"):
        rows = tiny.sft(4, kind) if kind != "prompt-completion" else tiny.sft(4)
        tiny.write_jsonl(path, rows)
        assert row_keys(load_rows(str(path))) == row_keys(rows)


# ---- forms --------------------------------------------------------------------------------------------------------------

ROW = {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("value", [[ROW], {"data": [ROW]}, {"version": "1", "data": [ROW], "ids": [1]}, ROW])
def test_rows_may_lie_in_a_list_or_under_a_key(value: Any, indent: int | None, tmp_path: Path) -> None:
    """The list may span lines and have other values next to it."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
    assert list(load_rows(str(path))) == [ROW]


def test_a_row_whose_column_is_a_list_is_a_row(tmp_path: Path) -> None:
    """The file is a row if the list is in `messages`, or in a column that is mapped to it."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}]}), encoding="utf-8")
    assert load_rows(str(path)).column_names == ["messages"]
    path.write_text(json.dumps({"dialog": [{"role": "user", "content": "a"}]}), encoding="utf-8")
    assert load_rows(str(path), column_mapping={"dialog": "messages"}).column_names == ["messages"]


def test_a_single_line_of_a_file_of_lines_is_a_row(tmp_path: Path) -> None:
    """Column names do not matter."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"source": "web", "conversation": [{"input": "a", "output": "b"}]}), encoding="utf-8")
    assert load_rows(str(path)).column_names == ["source", "conversation"]


def test_of_several_lists_the_split_is_taken(tmp_path: Path) -> None:
    """If there is no such split, the message lists what was found."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"train": [ROW], "test": [ROW, ROW]}), encoding="utf-8")
    assert len(load_rows(str(path))) == 1
    assert len(load_rows(str(path), split="test")) == 2
    with refused(DataError, path, "['train', 'test']", "'dev'"):
        load_rows(str(path), split="dev")


def test_columns_as_pandas_writes_them_are_refused(tmp_path: Path) -> None:
    """The message says what to write instead."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"prompt": {"0": "a", "1": "b"}, "completion": {"0": "a", "1": "b"}}), encoding="utf-8")
    with refused(DataError, path, "columns", "pandas", "orient='records', lines=True"):
        load_rows(str(path))
    for value in (
        {"prompt": ["a", "b"], "completion": ["c", "d"]},
        {"columns": ["prompt", "completion"], "index": [0], "data": [["a", "b"]]},
    ):
        path.write_text(json.dumps(value), encoding="utf-8")
        with refused(DataError, path, "columns", "orient='records', lines=True"):
            load_rows(str(path))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('[{"prompt": "a"},\n{"prompt": }]', ("line 2", "JSON", "column 12")),
        ('["a", {"prompt": "b"}, 7]', ("2 rows", "item 1", '"a"', "item 3", 7)),
        ('{"prompt": "\\ud83d"}', ("line 1", "JSON", "surrogate")),
    ],
)
def test_malformed_json_names_the_line(content: str, found: tuple[object, ...], tmp_path: Path) -> None:
    """In a list, the message names the item instead."""
    (tmp_path / "rows.json").write_text(content, encoding="utf-8")
    with refused(DataError, tmp_path / "rows.json", *found):
        load_rows(str(tmp_path / "rows.json"))


def test_numbers_and_text_in_one_column_stay_apart(path: Path) -> None:
    """Ids are often mixed. A prompt that is a number is refused later, with its row."""
    assert read(path, {"id": 1}, {"id": "1"}, {"id": None}) == [{"id": 1}, {"id": "1"}, {"id": None}]
    assert read(path, {"id": 1}, {"id": 1.5}) == [{"id": 1.0}, {"id": 1.5}]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"prompt": "a"},\n{"prompt": "b"},\n', "comma"),
        ('{"prompt": "a"}{"prompt": "b"}\n\n', "Another object"),
        ("{'prompt': 'a'}\n{'prompt': 'b'}\n", "`json.dumps`"),
        ('[{"role": "user"}]\n[{"role": "user"}]\n', '{"messages": [...]}'),
        ('{"prompt": "a", "prompt": "b"}\n', "key 'prompt'"),
        ('{"prompt": "caf\xe9"}\n', "UTF-8"),
    ],
)
def test_what_is_wrong_in_a_line_is_said_with_what_to_do(content: str, found: str, tmp_path: Path) -> None:
    """A duplicate key, for example, would lose a value."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content.encode("latin-1"))
    with refused(DataError, path, found):
        load_rows(str(path))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{\n"prompt": "a"\n}\n{\n"prompt": "b"\n}\n', "Another object"),
        ("[\n{'prompt': 'a'}]", "line 2"),
        ("[{'prompt': 'a'}]", "`json.dumps`"),
        ('[[{"role": "user"}]]', '{"messages": [...]}'),
    ],
)
def test_what_is_wrong_in_a_whole_is_said_too(content: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content, encoding="utf-8")
    with refused(DataError, path, found):
        load_rows(str(path))


def test_nan_is_null(path: Path) -> None:
    """Python writes NaN if pandas has no value."""
    path.write_text(
        '{"prompt": "a", "input": NaN, "score": NaN}\n{"prompt": "b", "input": "c", "score": 0.5}\n', encoding="utf-8"
    )
    assert [row["input"] for row in load_rows(str(path))] == [None, "c"]
    assert [row["score"] for row in load_rows(str(path))] == [None, 0.5]


def test_a_conversation_under_one_key_is_a_row(tmp_path: Path) -> None:
    """A file with one conversation is one row, whatever its key is called; the messages are not taken for rows."""
    value = {"Messages": [{"role": "user", "content": "a"}]}
    for name in ("rows.json", "rows.jsonl"):
        (tmp_path / name).write_text(json.dumps(value), encoding="utf-8")
        assert load_rows(str(tmp_path / name)).column_names == ["Messages"]


def test_rows_of_lists_are_no_columns(tmp_path: Path) -> None:
    """This holds if the file has several lines."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": ["a"], "completion": ["b"]}\n' * 2, encoding="utf-8")
    assert load_rows(str(path))["prompt"][:] == [["a"], ["a"]]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_other_unicode_is_read(encoding: str, path: Path) -> None:
    path.write_bytes('{"prompt": "é"}\r\n{"prompt": "b"}\r\n'.encode(encoding))
    assert load_rows(str(path))["prompt"][:] == ["é", "b"]


@pytest.mark.parametrize("depth", [19, 40, 90])
def test_deep_values_are_read(depth: int, tmp_path: Path) -> None:
    """Arrow can't read files with types this deep, so such values are stored as JSON."""
    value: Any = "a"
    for number in range(depth):
        value = [value] if number % 2 else {"a": value}
    row = {"prompt": "a", "completion": "b", "more": value}
    assert read(tmp_path / "a.jsonl", row) == [row]


def test_deep_lists_are_decoded_in_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For nested lists, the time that `datasets` takes to decode doubles with each level."""
    value: Any = "a"
    for _ in range(50):
        value = [value]
    row = {"prompt": "a", "completion": "b", "more": value}
    calls, decode = [0], features.decode_nested_example

    def counting(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        return decode(*args, **options)

    monkeypatch.setattr(features, "decode_nested_example", counting)
    assert read(tmp_path / "a.jsonl", row) == [row]
    assert calls[0] < 5_000


@pytest.mark.parametrize("depth", [150, 900, 100_000])
def test_values_that_are_too_deep_are_refused_with_their_line(depth: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "more": ' + "[" * depth + "]" * depth + "}\n", encoding="utf-8")
    with refused(DataError, path, "line 1"):
        load_rows(str(path))
