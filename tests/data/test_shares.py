"""A share of the prompts is the same in every phase, whatever the order of the rows."""

from datasets import Dataset

from spin_trl.data.shares import rows_of_share

PROMPTS = ["a", "b", "a", "c", "d", "b", "e", "f"]
ROWS = Dataset.from_dict({"key": [str(number) for number in range(8)], "prompt_hash": PROMPTS})


def test_a_share_is_of_prompts_and_keeps_equal_ones_together() -> None:
    """Half of six distinct prompts is three; all rows of a prompt are on the same side."""
    seen, others = rows_of_share(ROWS, 0.5, 1), rows_of_share(ROWS, 0.5, 1, others=True)
    assert len(set(seen["prompt_hash"])) == len(set(others["prompt_hash"])) == 3
    assert not set(seen["prompt_hash"]) & set(others["prompt_hash"])
    assert sorted([*seen["key"], *others["key"]]) == list(ROWS["key"])


def test_a_share_does_not_depend_on_the_order_of_rows_but_on_the_seed() -> None:
    chosen = set(rows_of_share(ROWS, 0.5, 1)["prompt_hash"])
    assert set(rows_of_share(ROWS.select(range(7, -1, -1)), 0.5, 1)["prompt_hash"]) == chosen
    assert len({frozenset(rows_of_share(ROWS, 0.5, seed)["prompt_hash"]) for seed in range(9)}) > 1


def test_the_whole_share_is_all_rows_and_leaves_none() -> None:
    assert rows_of_share(ROWS, 1.0, 1) is ROWS
    assert len(rows_of_share(ROWS, 1.0, 1, others=True)) == 0


def test_the_smallest_share_is_one_prompt() -> None:
    assert len(set(rows_of_share(ROWS, 0.001, 1)["prompt_hash"])) == 1
