"""No prompt is both trained on and evaluated on, ignoring case and white space."""

import heapq
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from messages import refused
from spin_trl.data.held_out import GROUP, group_of, separate, split_held_out
from spin_trl.data.prepare import prepare
from spin_trl.data.template.pair_template import PairTemplate
from spin_trl.errors import DataError


def rows_of(*prompts: str) -> Dataset:
    """Return prepared rows with these prompts."""
    rows = [{"prompt": prompt, "completion": f" Answer {index}."} for index, prompt in enumerate(prompts)]
    return prepare(Dataset.from_list(rows), PairTemplate(tiny.tokenizer()))


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    "other",
    [
        "what is  the CAPITAL of france? ",
        "\tWhat is the capital\nof France?",
        [user("What is the capital of France?")],
        [user([{"type": "text", "text": "What is the capital "}, {"type": "text", "text": "of France?"}])],
    ],
)
def test_prompts_that_differ_in_case_and_white_space_are_one(other: Any) -> None:
    """This holds for text, for a message, and for the parts of one."""
    assert group_of(other) == group_of("What is the capital of France?")


@pytest.mark.parametrize(
    "other",
    [
        "What is the capital of Spain?",
        "What is the capital of France",
        "Whatis the capital of France?",
        [{"role": "system", "content": "Be brief."}, user("What is the capital of France?")],
        [{"role": "system", "content": "What is the capital of France?"}],
    ],
)
def test_other_prompts_are_others(other: Any) -> None:
    """An additional system prompt, letter or punctuation mark makes a different prompt."""
    assert group_of(other) != group_of("What is the capital of France?")


def test_content_in_parts_and_keys_without_value_make_no_other_prompt() -> None:
    """This holds after a system prompt, too: one file may have text where another has parts, and Arrow fills in `name`."""
    system = {"role": "system", "content": "Be brief."}
    expected = group_of([system, user("Which boat?")])
    assert group_of([system, user([{"type": "text", "text": "WHICH  boat?"}])]) == expected
    assert group_of([{**system, "name": None}, {**user("Which boat?"), "name": None}]) == expected
    assert group_of([system, {**user("Which boat?"), "name": "Ada"}]) != expected


def test_near_duplicates_stay_on_one_side() -> None:
    """Of 40 prompts, each written in three ways, a tenth of the 120 rows is held out, and no prompt is on both sides."""
    rows = rows_of(*(written for i in range(40) for written in (f"Boat {i}?", f"boat {i}?", f" BOAT  {i}? ")))
    train, held_out = split_held_out(rows, 0.1, 1000)
    assert len(set(held_out["prompt_hash"])) == 12
    assert len(set(held_out[GROUP])) == 4
    assert not set(held_out[GROUP]) & set(train[GROUP])
    smallest = {min(one) for one in zip(*[iter(rows["prompt_hash"][:])] * 3, strict=True)}
    assert {min(hashes) for hashes in zip(*[iter(held_out["prompt_hash"][:])] * 3, strict=True)} == set(
        heapq.nsmallest(4, smallest)
    )


@settings(max_examples=30, deadline=None)
@given(
    spellings=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    fraction=st.sampled_from([0.0, 0.02, 0.2, 0.5]),
    most=st.integers(1, 8),
)
def test_no_group_is_split_and_never_more_than_most_is_held_out(
    spellings: list[int], fraction: float, most: int
) -> None:
    """This holds for groups of any size. Something is always left to train on."""
    groups = [f"{i}" for i, count in enumerate(spellings) for _ in range(count)]
    rows = Dataset.from_dict(
        {"prompt_hash": [f"{(index * 7919) % 1009:04}" for index in range(len(groups))], GROUP: groups}
    )
    train, held_out = split_held_out(rows, fraction, most)
    assert len(train) + len(held_out) == len(groups)
    assert len(train)
    assert not set(train[GROUP]) & set(held_out[GROUP])
    assert len(held_out) <= most
    if fraction == 0:
        assert not len(held_out)
    elif len(spellings) > 1 and min(spellings) <= most:
        assert len(held_out)


def test_data_without_near_duplicates_is_split_as_by_the_first_release() -> None:
    """The prompts with the smallest hashes are held out."""
    rows = rows_of(*(f"Boat {i}?" for i in range(100)))
    _, held_out = split_held_out(rows, 0.05, 1000)
    assert set(held_out["prompt_hash"]) == set(heapq.nsmallest(5, rows["prompt_hash"]))


def test_prompts_on_both_sides_are_dropped_from_the_side_that_is_set() -> None:
    """Two of four training prompts are held out, one of them in different case."""
    train, held_out = rows_of("a?", "b?", "c?", "d?"), rows_of("B?", "c?", "e?")
    kept, same, dropped = separate(train, held_out, "drop_train")
    assert (kept["prompt"][:], same["prompt"][:], dropped) == (["a?", "d?"], ["B?", "c?", "e?"], 2)
    same, kept, dropped = separate(train, held_out, "drop_held_out")
    assert (same["prompt"][:], kept["prompt"][:], dropped) == (["a?", "b?", "c?", "d?"], ["e?"], 2)
    with refused(DataError, 2, "'B?'", "`held_out_overlap: drop_train`", "`drop_held_out`"):
        separate(train, held_out, "refuse")


@pytest.mark.parametrize("overlap", ["drop_train", "drop_held_out", "refuse"])
def test_data_without_overlap_stays_as_it_is(overlap: str) -> None:
    """No row is copied or reordered."""
    train, held_out = rows_of("a?", "b?"), rows_of("c?")
    assert separate(train, held_out, overlap) == (train, held_out, 0)


@pytest.mark.parametrize(
    ("overlap", "other"),
    [("drop_train", "drop_held_out"), ("drop_held_out", "drop_train")],
)
def test_a_side_that_loses_everything_is_refused(overlap: str, other: str) -> None:
    """This happens when evaluating on the training file itself."""
    rows = rows_of("a?", "b?")
    with refused(DataError, "2 rows", f"`held_out_overlap: {other}`"):
        separate(rows, rows, overlap)
