"""What self-play can't do, said before a model is loaded."""

from __future__ import annotations

from typing import Any

from datasets import IterableDataset

from ..config.iteration import SPINConfig
from ..data.columns import refuse_media
from ..errors import DataError, noted, refuse_unplayable
from ..models.adapters import adapter_refusals, second_adapter
from ..objectives.registry import check_losses
from .arguments import as_settings, unnamed
from .collator import DataCollatorForSelfPlay
from .unplayable import of_settings


def check_self_play(
    args: Any,
    train_dataset: Any,
    data_collator: Any,
    peft_config: Any = None,
    model: Any = None,
    processing_class: Any = None,
) -> SPINConfig:
    """Raise unless an iteration can be played with these arguments of a trainer. Returns the settings, as what they are.

    Args:
        args: settings; TRL's own are completed.
        train_dataset: human responses.
        data_collator: ours, or None.
        peft_config: of a new adapter, or None.
        model: that is trained, or its name; None: it is not looked at.
        processing_class: its tokenizer, or None.

    Raises:
        RecipeError: the settings name an unknown loss, or can't be played; the message has all reasons.
        DataError: the dataset is a stream or holds images, or the collator is another one.
    """
    args = as_settings(args) or SPINConfig()
    if isinstance(train_dataset, IterableDataset):
        raise DataError(
            "`train_dataset` is an IterableDataset, which can't be self-played: every prompt is answered before training. "
            "Pass a `Dataset`, or stream pairs (`prompt`, `chosen`, `rejected`)."
        )
    found: list[str] = []
    noted(found, lambda: check_losses(args.losses))
    refuse_media(train_dataset)
    if data_collator is not None and not isinstance(data_collator, DataCollatorForSelfPlay):
        raise DataError("With an SFT dataset, `data_collator` must be a DataCollatorForSelfPlay, or left out.")
    found += [*of_settings(args), *adapter_refusals(peft_config)]
    if model is not None:
        found += [*second_adapter(model, peft_config), *unnamed(model, processing_class)]
    refuse_unplayable(found)
    return args
