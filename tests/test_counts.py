"""Numbers agree with the words next to them."""

import pytest

from spin_trl.counts import agreeing, counted, listed, with_article


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
        (listed([], 2), ""),
        (listed(["a", "b"], 2), "a, b"),
        (listed([1, 2, 3, 4, 5], 2), "1, 2 and 3 more"),
    ],
)
def test_words_agree_with_the_number(written: str, text: str) -> None:
    assert written == text


@pytest.mark.parametrize(
    ("name", "expected"),
    [("int", "an int"), ("list", "a list"), ("IterableDataset", "an IterableDataset"), ("", "a ")],
)
def test_articles_go_with_the_first_letter(name: str, expected: str) -> None:
    assert with_article(name) == expected
