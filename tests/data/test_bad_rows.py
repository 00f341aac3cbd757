"""All unusable rows are reported together; they end the run, or are left out, up to a limit, and counted."""

import re
from pathlib import Path

import pytest
from datasets import Dataset

import tiny
from messages import names, refused
from spin_trl import SPINConfig
from spin_trl.data.bad_rows import BadRows, left_out
from spin_trl.data.keys import row_keys
from spin_trl.data.load import load_rows
from spin_trl.data.prepare import prepare_and_count
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.errors import DataError, RecipeError, TemplateError
from spin_trl.report.write import remarks_on_data

GOOD = {"prompt": "Which?", "completion": " A boat."}
EMPTY = {"prompt": "Which?", "completion": " "}
SKIP = BadRows("skip", 0.5)


def rows(*bad: int, total: int = 20) -> Dataset:
    return Dataset.from_list([EMPTY if number in bad else GOOD for number in range(total)])


def prepared(dataset: Dataset, policy: BadRows | None = None, **options):
    return prepare_and_count(dataset, PairTemplate(tiny.tokenizer()), bad_rows=policy, **options)


def test_the_first_five_are_shown_and_all_are_counted() -> None:
    with refused(DataError, "7 of 20", "train", "completion", "2 more", "`bad_rows: skip`") as error:
        prepared(rows(2, 3, 5, 7, 11, 13, 17))
    assert re.findall(r"(?m)^  row (\d+): ", str(error.value)) == ["2", "3", "5", "7", "11"]


def test_one_alone_is_named_in_a_line() -> None:
    with refused(DataError, "Row 4", "completion", "`bad_rows: skip`") as error:
        prepared(rows(4))
    assert len(str(error.value).splitlines()) == 2
    with refused(DataError, "Row 4", "held-out", "completion", "`bad_rows: skip`"):
        prepared(rows(4), name="held-out")


@pytest.mark.parametrize("length", [40, 10_000_000])
def test_a_prompt_longer_than_the_model_has_positions_is_a_bad_row(length: int) -> None:
    """Only without `max_length`, by which it is left out. A text of 10 MB is too long whatever its tokens are."""
    long = {"prompt": "word " * (length // 5), "completion": " A boat."}
    dataset = Dataset.from_list([GOOD, long, GOOD])
    with refused(DataError, "Row 1", "32 (`max_position_embeddings`)", "`max_length`", "`bad_rows: skip`"):
        prepared(dataset, positions=32)
    assert prepared(dataset, SKIP, positions=32).skipped == 1
    found = prepared(dataset, positions=32, max_length=30)
    assert (len(found.rows), found.too_long, found.skipped) == (2, 1, 0)


def test_the_kind_of_error_is_the_first_ones() -> None:
    """Code that catches TemplateError gets the rows that the template refused."""
    tokenizer = tiny.tokenizer(chat_template="{{ raise_exception('No!') }}")
    conversations = tiny.sft(3, "messages")
    with refused(TemplateError, "3 of 3", "row 0", "No!"):
        prepare_and_count(conversations, PairTemplate(tokenizer))


@pytest.mark.parametrize("in_parallel", [None, 2])
def test_skipped_rows_are_left_out_counted_and_said(in_parallel: int | None, caplog: pytest.LogCaptureFixture) -> None:
    found = prepared(rows(0, 9), SKIP, num_proc=in_parallel)
    assert (len(found.rows), found.skipped, found.too_long) == (18, 2, 0)
    assert all(row["real_ids"] for row in found.rows)
    assert names(caplog.text, "2 of 20", "train", "`bad_rows: skip`", "row 0", "row 9", "completion")


def test_the_first_rows_may_all_be_bad() -> None:
    """The content of a column is determined regardless of its first rows: Arrow writes a thousand at a time."""
    found = prepared(rows(*range(1200), total=1300), BadRows("skip", 1200))
    assert (len(found.rows), found.skipped) == (100, 1200)


def test_keys_of_the_rest_stay() -> None:
    """A row's generations are found by its key, whichever rows before it are left out."""
    distinct = [{"prompt": f"Boat {number}?", "completion": " Yes."} for number in range(6)]
    whole = prepared(Dataset.from_list(distinct)).rows["key"][:]
    part = prepared(Dataset.from_list([*distinct[:2], {**distinct[2], "completion": ""}, *distinct[3:]]), SKIP).rows
    assert part["key"][:] == [*whole[:2], *whole[3:]]


def test_more_than_the_limit_are_refused() -> None:
    with refused(DataError, "3 of 20", "`bad_rows: skip`", "at most 2", "`bad_rows_max`: 0.1"):
        prepared(rows(1, 2, 3), BadRows("skip"))
    assert prepared(rows(1, 2), BadRows("skip")).skipped == 2
    assert prepared(rows(1, 2, 3), BadRows("skip", 3)).skipped == 3
    with refused(DataError, "4 of 20", "`bad_rows: skip`", "at most 3", "`bad_rows_max`: 3"):
        prepared(rows(1, 2, 3, 4), BadRows("skip", 3))


def test_something_must_be_left() -> None:
    with refused(DataError, "No row", "train", 4):
        prepared(rows(*range(4), total=4), BadRows("skip", 4))


@pytest.mark.parametrize(
    ("policy", "total", "limit"),
    [(BadRows(), 100, 0), (BadRows("skip"), 100, 10), (BadRows("skip"), 3, 1), (BadRows("skip", 0), 100, 0),
     (BadRows("skip", 7), 100, 7)],
)  # fmt: skip
def test_a_limit_is_a_share_or_a_number(policy: BadRows, total: int, limit: int) -> None:
    assert policy.limit(total) == limit


def test_the_settings_are_checked() -> None:
    args = SPINConfig("out", bad_rows="skip", bad_rows_max=3, use_cpu=True, bf16=False)
    assert (args.bad_rows, args.bad_rows_max) == ("skip", 3)
    with refused(RecipeError, "`bad_rows`", "'ignore'", "'refuse'", "'skip'"):
        SPINConfig("out", bad_rows="ignore", use_cpu=True, bf16=False)
    with refused(RecipeError, "`bad_rows_max`", -1):
        SPINConfig("out", bad_rows_max=-1, use_cpu=True, bf16=False)


def test_the_report_says_what_was_left_out() -> None:
    """An earlier version's journal has less to report."""
    assert remarks_on_data({"left_out": 1, "bad_rows": 2}) == [
        "2 rows left out because they can't be used (`bad_rows: skip`).",
        "1 row left out because its prompt is too long (`max_length`).",
    ]
    assert remarks_on_data({"train_rows": 5}) == []


# ---- lines that can't be read ---------------------------------------------------------------------------------------


LINES = {
    "rows.jsonl": [
        '{"prompt": "1?", "completion": "1"}',
        '{"prompt": "2?", "completion": ',
        '["3?", "3"]',
        '{"prompt": "4?", "completion": " "}',
        '{"prompt": "5?", "completion": "5"}',
    ],
    "rows.csv": ["prompt,completion", "1?,1", "2?,2,and more", "3?", "4?, ", "5?,5"],
}


@pytest.mark.parametrize("name", list(LINES))
def test_lines_that_cannot_be_read_are_left_out_with_the_other_bad_rows(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is listed with its line; readable rows keep their keys, and nothing of the others is trained on."""
    path = tmp_path / name
    path.write_text("\n".join(LINES[name]), encoding="utf-8")
    first = 2 if name == "rows.jsonl" else 3
    with refused(DataError, path, "2 rows", f"line {first}"):
        load_rows(str(path))
    rows = load_rows(str(path), bad_as_rows=True)
    template = PairTemplate(tiny.tokenizer())
    with refused(DataError, "3 of 5", "train"):
        prepare_and_count(rows, template)
    found = prepare_and_count(rows, template, bad_rows=BadRows("skip", 3))
    assert found.skipped == 3
    assert found.rows["prompt"][:] == ["1?", "5?"]
    whole = Dataset.from_list([{"prompt": f"{i}?", "completion": f"{i}"} for i in (1, 5)])
    assert found.rows["key"][:] == list(row_keys(whole).keys)
    assert names(caplog.text, f"row 1: {name}, line {first}", f"row 2: {name}, line {first + 1}")


def test_quotes_that_are_not_closed_are_refused_whatever_may_be_left_out(tmp_path: Path) -> None:
    """The rest of the file would become one cell, and be left out as a single row."""
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\n1?,"1\n2?,2\n3?,3\n', encoding="utf-8")
    with refused(DataError, "rows.csv, lines 2 to 4"):
        load_rows(str(path), bad_as_rows=True)


def test_a_single_row_that_is_left_out_is_one() -> None:
    reason = "the completion is empty"
    told = left_out([(3, reason)], 12, "train")
    assert names(told, "1 of 12", "train", "`bad_rows: skip`", f"row 3: {reason}")
    assert len(told.splitlines()) == 2
