"""Settings for training a small θ_0, for users without a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..errors import RecipeError
from ..objectives.fields import setting
from .checks import Bounds, check_fields


@dataclass
class StartConfig:
    """How to train θ_0 if no checkpoint is given: a small Llama and its tokenizer, trained on the dataset with SFT.

    Meant for demonstrations, tests and experiments on a CPU. With `model_name_or_path`, these settings are not used.

    Args:
        start_tokenizer: Tokenizer to train on the dataset: byte-level BPE, or characters.
        start_vocab_size: Size of the BPE vocabulary.
        start_hidden_size: Hidden size of the model.
        start_num_layers: Number of layers of the model.
        start_num_heads: Number of attention heads per layer.
        start_num_epochs: Number of epochs of the SFT that trains the start.
        start_learning_rate: Peak learning rate of the SFT that trains the start.
        start_batch_size: Batch size of the SFT that trains the start.
        start_label_smoothing: Label smoothing of the SFT that trains the start.

    Example:

    ```python
    start = StartConfig(start_tokenizer="char", start_num_layers=2)
    ```
    """

    start_tokenizer: str = setting(
        "bpe", "Tokenizer to train on the dataset: byte-level BPE, or characters.", choices=["bpe", "char"]
    )
    start_vocab_size: Annotated[int, Bounds(1, 10000000)] = setting(4096, "Size of the BPE vocabulary.")
    start_hidden_size: Annotated[int, Bounds(1, 100000)] = setting(256, "Hidden size of the model.")
    start_num_layers: Annotated[int, Bounds(1, 1000)] = setting(6, "Number of layers of the model.")
    start_num_heads: Annotated[int, Bounds(1, 1000)] = setting(4, "Number of attention heads per layer.")
    start_num_epochs: Annotated[float, Bounds(0, 100000)] = setting(
        3.0, "Number of epochs of the SFT that trains the start."
    )
    start_learning_rate: Annotated[float, Bounds(0)] = setting(
        1e-3, "Peak learning rate of the SFT that trains the start."
    )
    start_batch_size: Annotated[int, Bounds(1, 1000000)] = setting(16, "Batch size of the SFT that trains the start.")
    start_label_smoothing: Annotated[float, Bounds(0, 1)] = setting(
        0.0, "Label smoothing of the SFT that trains the start."
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.start_hidden_size % self.start_num_heads:
            raise RecipeError(
                f"`start_hidden_size` ({self.start_hidden_size}) must be a multiple of `start_num_heads` "
                f"({self.start_num_heads})."
            )
