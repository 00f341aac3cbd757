"""The parts of a pair are counted as DPOTrainer truncates its two rows."""

import pytest

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
