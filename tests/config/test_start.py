"""Settings of a start from scratch are checked before anything is built."""

from typing import Any

import pytest

from messages import refused
from spin_trl import StartConfig
from spin_trl.errors import RecipeError


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"start_tokenizer": "words"}, ("`start_tokenizer`", "'words'", "'bpe'", "'char'")),
        ({"start_label_smoothing": -1}, ("`start_label_smoothing`", -1)),
        (
            {"start_hidden_size": 30, "start_num_heads": 4},
            ("`start_hidden_size`", 30, "`start_num_heads`", 4),
        ),
    ],
    ids=["tokenizer", "smoothing", "heads"],
)
def test_a_start_that_cant_be_built_is_named(settings: dict[str, Any], parts: tuple[object, ...]) -> None:
    """It is refused before anything is trained."""
    with refused(RecipeError, *parts):
        StartConfig(**settings)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("start_vocab_size", 0), ("start_num_layers", 0), ("start_num_heads", 0), ("start_batch_size", 0),
        ("start_num_epochs", -0.5), ("start_learning_rate", -1e-3), ("start_label_smoothing", 1.01),
    ],
)  # fmt: skip
def test_sizes_and_rates_have_an_end(setting: str, value: float) -> None:
    with refused(RecipeError, f"`{setting}`", value):
        StartConfig(**{setting: value})


def test_a_start_may_be_as_small_as_can_be() -> None:
    small = {"start_vocab_size": 1, "start_hidden_size": 1, "start_num_layers": 1, "start_num_heads": 1}
    assert StartConfig(**small, start_num_epochs=0, start_learning_rate=0).start_hidden_size == 1
