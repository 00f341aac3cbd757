"""A run trains on and holds out the right rows: a share of its prompts, or other data, without prompts that both have."""

from __future__ import annotations

import pytest
from datasets import Dataset

from messages import names, refused
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.data.held_out import GROUP, group_of
from spin_trl.errors import DataError
from spin_trl.play.divide import divide


def rows(*prompts: str) -> Dataset:
    """Return prepared rows with these prompts, as far as needed to divide them: two prompts in one group differ only
    in case.
    """
    return Dataset.from_dict(
        {
            "prompt": list(prompts),
            "prompt_hash": [prompt.encode().hex() for prompt in prompts],
            GROUP: [group_of(prompt) for prompt in prompts],
        }
    )


def test_a_share_of_the_prompts_is_held_out_and_both_rows_of_a_prompt_stay_together() -> None:
    train, held_out, remarks = divide(SelfPlayConfig(held_out_fraction=0.25), rows(*"abcdabcd"), None)
    assert held_out["prompt"][:] == ["a", "a"]  # the smallest hash of four
    assert train["prompt"][:] == ["b", "c", "d", "b", "c", "d"]
    assert remarks == []


def test_one_prompt_can_not_be_divided_and_that_is_remarked() -> None:
    train, held_out, remarks = divide(SelfPlayConfig(), rows("The same", "the  same"), None)
    assert (len(train), len(held_out)) == (2, 0)
    assert len(remarks) == 1
    assert names(remarks[0], "`held_out_name`")
    assert divide(SelfPlayConfig(held_out_fraction=0.0), rows("a"), None)[2] == []  # no setting asked for it


@pytest.mark.parametrize(
    ("overlap", "trained_on", "held_out"),
    [("drop_train", ["c"], ["A", "b"]), ("drop_held_out", ["a", "b", "c"], ["d"])],
)
def test_shared_prompts_are_left_out_of_one_side(overlap: str, trained_on: list[str], held_out: list[str]) -> None:
    play = SelfPlayConfig(held_out_overlap=overlap, held_out_max=2)
    train, out, remarks = divide(play, rows("a", "b", "c"), rows("A", "b", "d"))
    assert (train["prompt"][:], out["prompt"][:]) == (trained_on, held_out)
    assert len(remarks) == 1
    assert names(remarks[0], "2 rows", f"`held_out_overlap: {overlap}`")


def test_shared_prompts_are_refused_if_the_settings_say_so() -> None:
    with refused(DataError, "`held_out_overlap: drop_train`", 2):
        divide(SelfPlayConfig(held_out_overlap="refuse"), rows("a", "b"), rows("A", "b"))


def test_more_held_out_rows_than_are_measured_may_be_trained_on() -> None:
    """Only the first `held_out_max` are excluded from training."""
    train, out, _ = divide(SelfPlayConfig(held_out_max=1), rows("a", "b"), rows("a", "b"))
    assert (train["prompt"][:], out["prompt"][:]) == (["b"], ["a"])
