"""Preference pairs are read in every format of TRL, refused if unusable, and identified by their prompts."""

from typing import Any

import pytest
from datasets import Dataset

import tiny
from messages import names, refused
from spin_trl.data.bad_rows import BadRows
from spin_trl.data.held_out import group_of
from spin_trl.data.preferences import check_pairs, explicit, pairs_as_conversations, pairs_digest, read_pairs
from spin_trl.errors import DataError

PROMPTS = [group_of(prompt) for prompt in tiny.sft(4)["prompt"]]
"""Groups of the prompts of the first four pairs, as used by the held-out split."""


@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("implicit_prompt", [False, True])
def test_every_format_has_the_same_prompts(conversational: bool, implicit_prompt: bool) -> None:
    dataset = tiny.preference(4, conversational, implicit_prompt)
    found = read_pairs(dataset)
    assert found.groups == PROMPTS
    assert found.rows.to_list() == dataset.to_list()
    assert (found.identical, found.skipped, found.remarks) == (0, 0, [])


def test_uclas_columns_and_a_prompt_that_is_repeated() -> None:
    """UltraFeedback's prompt is text, and its responses are conversations that begin with it."""
    assert read_pairs(tiny.sft(4, "real-generated")).groups == PROMPTS
    rows = [
        {**row, "prompt": row["chosen"][0]["content"]}
        for row in tiny.preference(4, True, implicit_prompt=True).to_list()
    ]
    found = read_pairs(Dataset.from_list(rows))
    assert found.groups == PROMPTS
    assert found.rows.column_names == ["chosen", "rejected"]


@pytest.mark.parametrize("implicit_prompt", [False, True])
def test_text_becomes_a_conversation(implicit_prompt: bool) -> None:
    found = read_pairs(pairs_as_conversations(tiny.preference(4, implicit_prompt=implicit_prompt)))
    assert found.groups == PROMPTS
    assert found.rows.select_columns(["prompt", "chosen", "rejected"]).to_list() == tiny.preference(4, True).to_list()
    same = tiny.preference(2, True)
    assert pairs_as_conversations(same) is same


def test_pairs_that_state_no_preference_are_left_out() -> None:
    rows = tiny.preference(4).to_list()
    rows[1]["rejected"] = rows[1]["chosen"]
    found = read_pairs(Dataset.from_list(rows))
    assert (len(found.rows), found.identical, found.groups) == (3, 1, [PROMPTS[0], *PROMPTS[2:]])
    assert names(found.remarks[0], "1 ", "`chosen`", "`rejected`")
    left, dropped = found.without({PROMPTS[0], PROMPTS[3]})
    assert (left.groups, dropped) == ([PROMPTS[2]], 2)
    with refused(DataError, "`chosen`", "`rejected`", "4 rows"):
        read_pairs(Dataset.from_list([{**row, "rejected": row["chosen"]} for row in rows]))


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"chosen": ""}, ("`chosen`",)),
        ({"rejected": None}, ("`rejected`",)),
        ({"prompt": " "}, ("`prompt`",)),
    ],
)
def test_a_bad_row_is_named_or_left_out(row: dict[str, Any], named: tuple[str, ...]) -> None:
    rows = tiny.preference(4).to_list()
    rows[2] |= row
    with refused(DataError, "Row 2", *named, "`bad_rows: skip`"):
        read_pairs(Dataset.from_list(rows))
    found = read_pairs(Dataset.from_list(rows), BadRows("skip", 1))
    assert (len(found.rows), found.skipped) == (3, 1)
    assert names(found.remarks[0], "row 2", *named)


def test_messages_that_do_not_end_with_a_response_are_bad() -> None:
    rows = tiny.preference(2, True).to_list()
    rows[1]["chosen"] = [{"role": "user", "content": "And?"}]
    with refused(DataError, "Row 1", "`chosen`", "'user'"):
        read_pairs(Dataset.from_list(rows))


def test_what_is_no_preference_data_is_refused() -> None:
    with refused(DataError, "`chosen`", "`rejected`", "'completion'", "`column_mapping`"):
        check_pairs(tiny.sft(2))
    with refused(DataError, "rows"):
        check_pairs(tiny.preference(2).select([]))


def test_the_digest_is_that_of_the_content() -> None:
    pairs = tiny.preference(4)
    assert pairs_digest(pairs) == pairs_digest(pairs.add_column("more", [1, 2, 3, 4]))
    assert pairs_digest(pairs) != pairs_digest(pairs.select([1, 0, 2, 3]))
    assert pairs_digest(tiny.sft(2, "real-generated")) == pairs_digest(check_pairs(tiny.sft(2, "real-generated")))


def test_the_prompt_is_taken_apart_as_dpo_trainer_does() -> None:
    row = {"chosen": "What? This one.", "rejected": "What? That one."}
    assert explicit(row) == {"prompt": "What? Th", "chosen": "is one.", "rejected": "at one."}
