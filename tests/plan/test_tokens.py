"""Lengths of prompts and responses match sums by hand and counts on a dataset."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import runs
import tiny
from messages import names, refused
from spin_trl.errors import DataError
from spin_trl.generation.engine import Sampling
from spin_trl.plan import tokens
from spin_trl.plan.planning import planned_recipe
from spin_trl.plan.tokens import ASSUMED_LENGTH, Lengths, PairLengths, read_lengths


def lengths(
    *rows: tuple[int, int], max_new_tokens: int | None = 10, max_length: int | None = 20, is_counted: bool = True
) -> Lengths:
    """Return the lengths of these (prompt, real response) pairs, with limits for generated responses."""
    sampling = Sampling(1.0, 1.0, 0, max_new_tokens, max_length, 1, 4, 0)
    return Lengths(rows, 100, 10, sampling, "by hand", is_counted=is_counted)


def test_a_shared_prompt_is_run_once() -> None:
    pair = PairLengths(5, (15, 10, 7))
    assert (pair.unique, pair.longest) == (37, 20)


@pytest.mark.parametrize(
    ("row", "branches", "longest", "expected"),
    [
        ((5, 8), 2, False, (8, 8)),  # a generated response is assumed to be as long as the real one
        ((5, 30), 2, False, (15, 10)),  # which is truncated to `max_length`, and the generated one to `max_new_tokens`
        ((5, 8), 2, True, (8, 10)),  # at most
        ((15, 8), 2, True, (5, 5)),  # a prompt of 15 leaves 5
        ((5, 8), 3, False, (8, 8, 8)),
        ((25, 8), 2, False, (1, 1)),  # every row has at least one token
    ],
)
def test_a_pair_by_hand(row: tuple[int, int], branches: int, longest: bool, expected: tuple[int, ...]) -> None:
    assert lengths(row).pair(row, branches, longest=longest) == PairLengths(row[0], expected)


def test_where_nothing_was_counted_the_longest_row_is_as_long_as_may_be() -> None:
    assumed = lengths((5, 5), is_counted=False)
    assert assumed.pair((5, 5), longest=True) == PairLengths(5, (15, 10))
    assert assumed.micro_batch(3) == [PairLengths(5, (15, 10))] * 3
    assert assumed.longest_prompt == 10  # of 20, with a response of 10
    endless = lengths((5, 5), max_length=None, is_counted=False)
    assert endless.pair((5, 5), longest=True).responses == (ASSUMED_LENGTH - 5, 10)


def test_the_largest_of_many_micro_batches_is_planned_for() -> None:
    """A thousand draws of three from two rows include one with the longer row three times."""
    found = lengths((1, 1), (6, 10))
    assert found.micro_batch(3) == [PairLengths(6, (10, 10))] * 3
    assert found.micro_batch(2, longest=True) == [PairLengths(6, (10, 10))] * 2
    assert lengths((9, 1), (1, 9)).micro_batch(1, longest=True) == [PairLengths(9, (1, 10))]
    assert found.micro_batch(3) == found.micro_batch(3)  # deterministic


def test_means_and_the_longest_by_hand() -> None:
    found = lengths((4, 2), (6, 30), (12, 4))
    assert found.prompt == pytest.approx(22 / 3)
    assert found.real == pytest.approx((2 + 14 + 4) / 3)  # 6 + 30 is cut to 20
    assert found.generated == pytest.approx((2 + 10 + 4) / 3)
    assert found.longest_prompt == 12
    assert found.longest_answer == 20  # 12 + 8, which is more than 6 + 10
    assert lengths((4, 3)).longest_of(8) == 3


def test_of_one_known_length_the_longest_of_many_is_twice_that() -> None:
    """The result is at most the limit."""
    assert lengths((4, 3), is_counted=False).longest_of(8) == 6
    assert lengths((4, 7), is_counted=False).longest_of(8) == 10


def test_another_max_length_leaves_the_prompts_that_fit() -> None:
    found = lengths((4, 2), (6, 30), (12, 4)).cut_to(7)
    assert list(found.rows) == [(4, 2), (6, 30)]
    assert found.sampling.max_length == 7
    assert list(lengths((4, 2)).cut_to(3).rows) == [(4, 2)]  # at least one row must remain
    assert list(lengths((4, 2), (12, 4)).cut_to(None).rows) == [(4, 2), (12, 4)]


def test_a_users_own_means_take_the_place_of_what_was_counted() -> None:
    counted = lengths((4, 2), (7, 5))
    assert counted.with_means(None, None) is counted
    found = counted.with_means(9, None)
    assert (list(found.rows), found.is_counted) == ([(9, 4)], False)  # 3.5 tokens, rounded
    assert list(counted.with_means(None, 8).rows) == [(6, 8)]


@pytest.mark.parametrize(
    ("total", "held_out", "play", "name", "expected"),
    [
        (640, None, {}, None, (627, 13)),  # 2 % are 12.8
        (10, None, {}, None, (9, 1)),  # at least one
        (1_000_000, None, {}, None, (999_000, 1000)),  # at most a thousand
        (640, None, {"held_out_fraction": 0.0}, None, (640, 0)),
        (640, None, {"smoke": True}, None, (7, 1)),
        (1, None, {}, None, (1, 1)),
        (640, 50, {}, "held.jsonl", (640, 50)),
        (640, 5000, {}, "held.jsonl", (640, 1000)),
        (640, None, {}, "org/held", (640, 1000)),
    ],
)
def test_rows_are_split_as_a_run_splits_them(
    total: int, held_out: int | None, play: dict[str, Any], name: str | None, expected: tuple[int, int]
) -> None:
    known = {"smoke": False, "held_out_fraction": 0.02, "held_out_max": 1000, **play}
    recipe: Any = SimpleNamespace(play=SimpleNamespace(**known), data=SimpleNamespace(held_out_name=name))
    assert tokens._split(recipe, total, held_out) == expected


def test_tokens_are_counted_on_the_recipes_own_data(tmp_path: Path, llama_folder: Path) -> None:
    """The counts are the tokenizer's, plus EOS for each response."""
    found = read_lengths(planned_recipe(str(runs.recipe(tmp_path, llama_folder)), []))
    tokenizer = tiny.tokenizer()
    by_hand = [
        (len(tokenizer(row["prompt"]).input_ids), len(tokenizer(row["completion"]).input_ids) + 1)
        for row in tiny.sft(runs.ROWS)
    ]
    assert list(found.rows) == by_hand
    assert (found.num_rows, found.num_held_out, found.is_counted) == (12, 3, True)
    assert names(found.described, "15 rows")


def test_the_test_set_and_the_retention_set_are_counted(tmp_path: Path, llama_folder: Path) -> None:
    """At most `retain_max` rows of retention are counted, and eight of each in a smoke run; if the data is not
    available, the limits are assumed.
    """
    data = str(tiny.write_jsonl(tmp_path / "more.jsonl", tiny.sft(20)))
    recipe = str(runs.recipe(tmp_path, llama_folder, test_name=data, retain_name=data, retain_max=12))
    for more, expected in (
        ([], (20, 12)),
        (["--smoke", "true"], (8, 8)),
        (["--dataset_name", "nobody/nothing"], (1000, 12)),
        (["--test_name", ""], (0, 12)),
    ):
        found = read_lengths(planned_recipe(recipe, more))
        assert (found.num_tested, found.num_retained) == expected


def test_what_is_not_at_hand_is_assumed_and_said(tmp_path: Path, llama_folder: Path) -> None:
    recipe = str(runs.recipe(tmp_path, llama_folder, dataset_name="nobody/nothing", max_length=64))
    found = read_lengths(planned_recipe(recipe, []), num_rows=100)
    assert (list(found.rows), found.is_counted) == ([(16, 16)], False)
    assert (found.num_rows, found.num_held_out) == (80, 20)
    assert names(found.described, "'nobody/nothing'", 16)
    elsewhere = planned_recipe(recipe.replace("small", "small"), ["--model_name_or_path", "nobody/model"])
    assert names(read_lengths(elsewhere).described, "10,000", "`--rows`")


def test_a_file_that_is_not_there_is_the_users_to_mend(tmp_path: Path, llama_folder: Path) -> None:
    recipe = str(runs.recipe(tmp_path, llama_folder, dataset_name="gone.jsonl"))
    with refused(DataError, "gone.jsonl"):
        read_lengths(planned_recipe(recipe, []))
