"""The parts of a pair are counted as DPOTrainer truncates its two rows."""

import pytest
from trl.trainer.dpo_trainer import DataCollatorForPreference

from spin_trl.training.pair_lengths import truncated, truncated_lengths


@pytest.mark.parametrize(
    ("lengths", "max_length", "mode", "expected"),
    [
        ((6, 3, 5), None, "keep_start", (6, 3, 5)),
        ((6, 3, 5), 11, "keep_start", (6, 3, 5)),
        ((6, 3, 5), 8, "keep_start", (6, 2, 2)),
        ((9, 3, 5), 8, "keep_start", (8, 0, 0)),
        ((6, 3, 5), 8, "keep_end", (5, 3, 5)),  # 5 tokens of the prompt in the chosen row, 3 in the rejected one
        ((6, 9, 9), 8, "keep_end", (0, 8, 8)),
        ((6, 3, 9), 8, "keep_end", (5, 3, 8)),
    ],
)
def test_by_hand(
    lengths: tuple[int, int, int], max_length: int | None, mode: str, expected: tuple[int, int, int]
) -> None:
    assert truncated_lengths(lengths, max_length, mode) == expected


@pytest.mark.parametrize(
    ("max_length", "mode", "expected"),
    [
        (None, "keep_start", ([1, 2, 3], [4, 5, 6, 7])),
        (7, "keep_end", ([1, 2, 3], [4, 5, 6, 7])),
        (5, "keep_start", ([1, 2, 3], [4, 5])),
        (2, "keep_start", ([1, 2], [])),
        (5, "keep_end", ([3], [4, 5, 6, 7])),
        (3, "keep_end", ([5], [6, 7])),
    ],
)
def test_tokens_that_remain_by_hand(max_length: int | None, mode: str, expected: tuple[list[int], list[int]]) -> None:
    found = truncated([1, 2, 3], [4, 5, 6, 7], max_length, mode)
    assert found == expected
    assert max_length is None or mode == "keep_start" or sum(map(len, found)) <= max_length


ROWS = [([5, 6, 7], [8, 9]), ([5, 6], [10]), ([11] * 6, [12, 13, 14, 15]), ([7], [])]


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
@pytest.mark.parametrize("max_length", [None, 3, 5, 10])
def test_rows_are_truncated_as_trl_does(mode: str, max_length: int | None) -> None:
    """TRL's mask also has a first token of a response that nothing precedes; it is never predicted."""
    collator = DataCollatorForPreference(pad_token_id=0, max_length=max_length, truncation_mode=mode)
    for prompt_ids, response_ids in ROWS:
        batch = collator([{"prompt_ids": prompt_ids, "chosen_ids": response_ids, "rejected_ids": []}])
        kept = batch["attention_mask"][0].bool()
        ids, mask = batch["input_ids"][0][kept].tolist(), batch["completion_mask"][0][kept].bool()
        found = truncated(prompt_ids, response_ids, max_length, mode)
        assert [*found[0], *found[1]] == ids
        assert len(found[1]) == int(mask[1:].sum())
