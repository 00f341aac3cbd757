"""Numbers agree with the words beside them."""

import pytest

from spin_trl.counts import agreeing, counted


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (counted(1, "prompt"), "1 prompt"),
        (counted(0, "prompt"), "0 prompts"),
        (counted(1000, "prompt"), "1,000 prompts"),
        (counted(2, "answer is", "answers are"), "2 answers are"),
        (counted(1, "process", "processes"), "1 process"),
        (agreeing(1, "is", "are"), "is"),
        (agreeing(0, "is", "are"), "are"),
        (agreeing(12, "shard"), "shards"),
    ],
)
def test_words_agree_with_the_number(written: str, text: str) -> None:
    assert written == text
