"""CSV: cells are read as text exactly as written, columns of other kinds are parsed, and errors name the line."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from messages import names, refused
from spin_trl.data.columns import is_sft
from spin_trl.data.load import load_rows
from spin_trl.data.reading.csv_text import CsvRows
from spin_trl.errors import DataError


def read(path: Path, content: str | bytes, **options: Any) -> list[dict[str, Any]]:
    """Return the rows of a CSV file with this content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(load_rows(str(path), **options))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file to write."""
    return tmp_path / "rows.csv"


def test_cells_are_text_exactly_as_written(path: Path) -> None:
    """Cells are not converted to numbers, missing values or dates."""
    cells = ["007", "1.50", "NA", "None", "", " a ", "true", "2024-01-01", "1e5", "null", "-", "#N/A", "é"]
    rows = read(path, "prompt,completion\n" + "".join(f"q,{cell}\n" for cell in cells))
    assert [row["completion"] for row in rows] == cells


TEXT = st.text(st.characters(codec="utf-8"))


@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), separator=st.sampled_from(",;\t"))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_read_as_it_was_written(rows: list[tuple[str, str]], separator: str, path: Path) -> None:
    """Text may contain commas, quotes, line breaks of any kind, and control characters."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([("prompt", "completion"), *rows])
    while rows and not any(rows[-1]):
        rows = rows[:-1]  # left out, like the empty rows of a spreadsheet
    assert [(row["prompt"], row["completion"]) for row in CsvRows(path, None, {}, bad_as_rows=False)] == rows


def test_line_breaks_in_quotes_a_byte_order_mark_and_crlf_are_read(path: Path) -> None:
    """Files as Excel writes them are read, and a line break in a cell is preserved."""
    rows = read(path, '\ufeffprompt,completion\r\n"a\r\nb","say ""hi"""\r\nc,\r\n\r\n')
    assert rows == [{"prompt": "a\r\nb", "completion": 'say "hi"'}, {"prompt": "c", "completion": ""}]


def test_a_cell_may_be_of_any_length(path: Path) -> None:
    """Python's reader refuses cells over 128 KiB by default; its limit is restored after the read."""
    limit = csv.field_size_limit()
    assert len(read(path, f"prompt,completion\na,{'x' * 300_000}\n")[0]["completion"]) == 300_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    "content",
    [
        "prompt;completion\na, b;c\n",
        "prompt\tcompletion\na, b\tc\n",
        "prompt|completion\na, b|c\n",
        "sep=;\nprompt;completion\na, b;c\n",
    ],
    ids=["semicolons", "tabs", "bars", "with Excel's note"],
)
def test_the_separator_is_seen_from_the_header(content: str, path: Path) -> None:
    """Spreadsheets write semicolons in locales with a decimal comma."""
    assert read(path, content) == [{"prompt": "a, b", "completion": "c"}]


def test_known_names_decide_between_separators(path: Path) -> None:
    """A comma in a column name does not make the file comma-separated; nor does a header with a single column."""
    assert read(path, "id, old;prompt;completion\n1;a;b\n")[0]["completion"] == "b"
    with refused(DataError, f"{path}, line 2", "2 fields", "commas", "header", 1):
        read(path, "question\nWhich, or what?\n")


def test_utf_16_is_read_and_other_encodings_are_refused_by_line(path: Path) -> None:
    """UTF-16 with tabs, which Excel calls Unicode text, is read."""
    assert read(path, "prompt\tcompletion\na\té\n".encode("utf-16")) == [{"prompt": "a", "completion": "é"}]
    with refused(DataError, f"{path}, line 3", "UTF-8", "byte 0xe9"):
        read(path, b"prompt,completion\na,b\na,caf\xe9\n")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_other_unicode_is_read_without_a_mark_too(encoding: str, path: Path) -> None:
    """Such a file is recognised because its first character is ASCII."""
    assert read(path, "prompt,completion\na,é\n".encode(encoding)) == [{"prompt": "a", "completion": "é"}]


def test_lines_may_end_with_a_carriage_return_alone(path: Path) -> None:
    """Excel writes such files for old Macs. If lines end otherwise, a carriage return is part of its cell."""
    assert read(path, "prompt,completion\ra,é\rc,d\r")[0] == {"prompt": "a", "completion": "é"}
    assert read(path, '\ufeffprompt,completion\r"a\rb",c\r') == [{"prompt": "a\rb", "completion": "c"}]
    assert read(path, 'prompt,completion\n"a\rb",c\n') == [{"prompt": "a\rb", "completion": "c"}]


def test_empty_rows_at_the_end_are_left_out_and_counted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Spreadsheets write such rows. The message appears at every load, including from the cache."""
    for _ in range(2):
        caplog.clear()
        rows = read(path, "prompt,completion\na,b\n,\nc,d\n,\n,\n")
        assert [row["prompt"] for row in rows] == ["a", "", "c"]  # in the middle they are rows that can't be used
        (told,) = caplog.messages
        assert names(told, "2 empty rows", "rows.csv")
    caplog.clear()
    assert len(read(path, 'messages,prompt\n"[{""role"": ""user""}]",a\n,\n')) == 1
    (told,) = caplog.messages
    assert names(told, "1 empty row", "rows.csv")
    with refused(DataError, path, "no rows"):
        read(path, "prompt,completion\n,\n")


def test_empty_columns_without_a_name_are_left_out(path: Path) -> None:
    """Spreadsheets write such columns."""
    assert read(path, "prompt,,completion,\na,,b,\n") == [{"prompt": "a", "completion": "b"}]


# ---- columns that hold no text ------------------------------------------------------------------------------------------


def test_a_label_stays_one_of_unpaired_preferences(path: Path) -> None:
    """Completions labelled as unwanted are never taken for human responses."""
    for yes, no in (("true", "false"), ("True", "False"), ("1", "0"), ("1.0", "0.0")):
        path.write_text(f"prompt,completion,label\na,b,{yes}\nc,d,{no}\n", encoding="utf-8")
        rows = load_rows(str(path))
        assert rows["label"][:] == [True, False]
        assert not is_sft(rows)
    with refused(DataError, "line 2", "`label`", "'easy'", "true", "false", "`column_mapping: {label: topic}`"):
        read(path, "prompt,completion,label\na,b,easy\n")
    with refused(DataError, "line 2", "`label`", "''"):
        read(path, "prompt,completion,label\na,b,\n")
    assert read(path, "prompt,completion,label\na,b,easy\n", column_mapping={"label": "topic"})[0]["topic"] == "easy"
    assert read(path, "text,label\na,easy\n")[0]["label"] == "easy"


MESSAGES = [{"role": "user", "content": "7"}, {"role": "assistant", "content": "true", "weight": 0.6}]


def write_rows(path: Path, *rows: list[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def test_messages_and_tools_are_parsed(path: Path) -> None:
    """JSON in cells is parsed without converting text or adding keys, for mapped column names too."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"x": {"default": None}, "y": 0.6}}}]
    write_rows(path, ["messages", "tools", "weight", "train"], [json.dumps(MESSAGES), json.dumps(tools), "1", ""])
    assert load_rows(str(path))[0] == {"messages": MESSAGES, "tools": tools, "weight": 1, "train": None}
    write_rows(path, ["dialog", "tools"], [json.dumps(MESSAGES), ""])
    assert load_rows(str(path), column_mapping={"dialog": "messages"})[0] == {"messages": MESSAGES, "tools": None}


@pytest.mark.parametrize(
    ("name", "cell", "found"),
    [
        ("messages", "hello", "JSON"),
        ("messages", "", "JSON"),
        ("messages", "{}", "JSON"),
        ("messages", str(MESSAGES), "`json.dumps`"),
        ("prompt", str(MESSAGES), "`json.dumps`"),
        ("tools", "search", "JSON"),
        ("weight", "much", "number"),
        ("train", "perhaps", "true"),
    ],
)
def test_what_can_not_be_parsed_is_refused_by_line(name: str, cell: str, found: str, path: Path) -> None:
    """The message shows the cell."""
    write_rows(path, ["id", name], ["1", cell])
    with refused(DataError, f"{path}, line 2", f"`{name}`", repr(cell)[:20], found):
        load_rows(str(path))


def test_the_first_row_says_whether_prompts_are_messages(path: Path) -> None:
    """The first row decides; the others must match it, or are refused by line."""
    prompt, completion = json.dumps(MESSAGES[:1]), json.dumps(MESSAGES[1:])
    write_rows(path, ["prompt", "completion"], [prompt, completion])
    assert load_rows(str(path))[0] == {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}
    write_rows(path, ["prompt", "completion"], [prompt, completion], ["hello", completion])
    with refused(DataError, "line 3", "`prompt`", "'hello'", "JSON"):
        load_rows(str(path))
    write_rows(path, ["prompt", "completion"], ["hello", "[1, 2]"], [prompt, "b"])
    with refused(DataError, "line 3", "`prompt`", "list", "first row"):
        load_rows(str(path))
    write_rows(path, ["prompt", "completion"], ["hello", "[1, 2]"], ['{"a": 1}', "[]"])
    assert [row["completion"] for row in load_rows(str(path))] == ["[1, 2]", "[]"]


# ---- refused ------------------------------------------------------------------------------------------------------------


def test_rows_of_another_length_are_refused_by_line(path: Path) -> None:
    """Cells are never shifted and rows never padded. Lines are counted as an editor counts them."""
    content = 'prompt,completion\n"a\nb",c\nd,e,f\ng\n'
    with pytest.raises(DataError) as error:
        read(path, content)
    whole, more, fewer = str(error.value).splitlines()
    header = ("commas", "header", 2, "['prompt', 'completion']")
    assert names(whole, path, "2 rows")
    assert names(more, "line 4", "3 fields", *header, "quotes")
    assert names(fewer, "line 5", "1 field", *header)


def test_of_many_bad_rows_the_first_five_are_shown(path: Path) -> None:
    """The message also gives the total number of bad rows."""
    with pytest.raises(DataError) as error:
        read(path, "prompt,completion\n" + "a\n" * 100)
    lines = str(error.value).splitlines()
    assert names(lines[0], path, "100 rows", "first 5")
    assert [line.partition(":")[0] for line in lines[1:]] == [f"line {number}" for number in range(2, 7)]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("prompt,prompt\na,b\n", ("line 1", "header", "['prompt', 'prompt']")),
        ("prompt,\na,\na,b\n", ("line 1", "column 2", "['prompt', '']", "'b'", "line 3")),
        ('prompt,completion\na,"b\nc,d\n', ("lines 2 to 3", "a quote")),
        ('prompt,completion\n"a"b,c\n', ("line 2", "closing quote", '""')),
    ],
    ids=["twice", "no name", "open quote", "text after a quote"],
)
def test_damaged_files_are_refused_by_line(content: str, found: tuple[str, ...], path: Path) -> None:
    """The message says what to do about it."""
    with refused(DataError, path, *found):
        read(path, content)


def test_files_of_one_split_have_the_same_columns(tmp_path: Path) -> None:
    """The message names both files."""
    (tmp_path / "a.csv").write_text("prompt,completion\na,b\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("prompt,answer\na,b\n", encoding="utf-8")
    first, second = (tmp_path / name for name in ("a.csv", "b.csv"))
    with refused(DataError, second, "['prompt', 'answer']", first, "['prompt', 'completion']"):
        load_rows(str(tmp_path))


def test_an_index_of_pandas_is_a_column(path: Path) -> None:
    """It gets the name that pandas and `datasets` give it, so the message about unused columns can name it."""
    assert read(path, ",prompt,completion\n0,a,b\n")[0] == {"Unnamed: 0": "0", "prompt": "a", "completion": "b"}
    assert list(read(path, ",Unnamed: 0,prompt\n0,1,a\n")[0]) == ["Unnamed: 0.1", "Unnamed: 0", "prompt"]


def test_quotes_behind_a_space_are_refused(path: Path) -> None:
    """Such quotes would be part of the text. If they are intended, the whole cell must be quoted."""
    with refused(DataError, "line 3", "a quote", "space"):
        read(path, 'prompt,completion\n"a","b"\n"a", "b"\n')
    rows = read(path, 'prompt,completion\n"a, ""b""", b\na," ""b"""\na, b "c" d\n')
    assert [row["completion"] for row in rows] == [" b", ' "b"', ' b "c" d']
