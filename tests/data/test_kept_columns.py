"""Prepared rows keep the source columns that a scorer needs."""

import datetime

from datasets import Dataset

import tiny
from spin_trl.data.kept_columns import KEPT_COLUMNS, kept_columns, with_kept_columns
from spin_trl.data.prepare import prepare, prepare_and_count
from spin_trl.data.template.pair_template import PairTemplate

TEMPLATE = PairTemplate(tiny.tokenizer())


def source() -> Dataset:
    rows = tiny.sft(6)
    day = datetime.date(2024, 5, 1)
    return rows.add_column("tests", [[f"assert f({n})"] for n in range(6)]).add_column("day", [day] * 6)


def test_every_row_keeps_its_own_values() -> None:
    """Rows may be reordered or left out; equal rows are told apart by their numbers."""
    rows = source()
    twice = Dataset.from_list([*rows, {**rows[2], "tests": ["another"]}])
    prepared = prepare(twice, TEMPLATE).select([6, 4, 0, 2])
    found = with_kept_columns(prepared, twice, ["tests", "day"])
    assert [kept_columns(row)["tests"] for row in found] == [
        ["another"],
        ["assert f(4)"],
        ["assert f(0)"],
        ["assert f(2)"],
    ]
    assert kept_columns(found[0])["day"] == "2024-05-01"
    assert found.remove_columns(KEPT_COLUMNS)[:] == prepared[:]


def test_all_turns_of_a_conversation_keep_the_same() -> None:
    rows = tiny.sft(3, "multi-turn").add_column("tests", ["a", "b", "c"])
    found = with_kept_columns(prepare(rows, TEMPLATE, turn="all"), rows, ["tests"])
    kept = [kept_columns(row)["tests"] for row in found]
    assert sorted(set(kept)) == ["a", "b", "c"]
    assert len(kept) > 3
    assert kept == sorted(kept)


def test_prepared_rows_are_their_own_source() -> None:
    prepared = prepare(tiny.sft(3), TEMPLATE).add_column("tests", ["a", "b", "c"])
    found = with_kept_columns(prepared.select([2, 0]), prepared, ["tests"])
    assert [kept_columns(row) for row in found] == [{"tests": "c"}, {"tests": "a"}]


def test_without_columns_nothing_changes() -> None:
    prepared = prepare(tiny.sft(3), TEMPLATE)
    assert with_kept_columns(prepared, tiny.sft(3), []) is prepared
    assert kept_columns(prepared[0]) == {}


def test_columns_of_a_scorer_are_not_reported_as_unused() -> None:
    remarks = [
        prepare_and_count(source(), TEMPLATE, also_used=used).remarks for used in ((), ("tests",), ("tests", "day"))
    ]
    assert ["`tests`" in "".join(one) for one in remarks] == [True, False, False]
    assert ["`day`" in "".join(one) for one in remarks] == [True, True, False]
