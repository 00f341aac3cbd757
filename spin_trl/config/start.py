"""Settings of how a small θ_0 is made, for those who have no checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ..errors import RecipeError
from .checks import Bounds, check_fields


@dataclass
class StartConfig:
    """How θ_0 is made when no checkpoint is given: a small Llama and its tokenizer, trained on the dataset with SFT.

    Meant for demonstrations, tests and studies on a CPU; with `model_name_or_path` none of this is used.
    """

    start_tokenizer: str = field(
        default="bpe",
        metadata={
            "help": "Tokenizer trained on the dataset: byte-level BPE, or characters.",
            "choices": ["bpe", "char"],
        },
    )
    start_vocab_size: int = field(default=4096, metadata={"help": "Size of the BPE vocabulary."})
    start_hidden_size: int = field(default=256, metadata={"help": "Width of the model."})
    start_num_layers: int = field(default=6, metadata={"help": "Layers of the model."})
    start_num_heads: int = field(default=4, metadata={"help": "Attention heads of the model."})
    start_num_epochs: float = field(default=3.0, metadata={"help": "Epochs of SFT that make θ_0."})
    start_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of that SFT."})
    start_batch_size: int = field(default=16, metadata={"help": "Batch size of that SFT."})
    start_label_smoothing: Annotated[float, Bounds(0, 1)] = field(
        default=0.0, metadata={"help": "Label smoothing of that SFT."}
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.start_hidden_size % self.start_num_heads:
            raise RecipeError(
                f"`start_hidden_size` ({self.start_hidden_size}) must be a multiple of `start_num_heads` "
                f"({self.start_num_heads})."
            )
