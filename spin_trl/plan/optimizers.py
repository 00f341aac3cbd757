"""What an optimiser keeps of every parameter that is trained, by its name in `optim`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_BLOCK = 256
"""Values that share a scale in bitsandbytes' 8-bit states: a float32 each."""

_SMALLEST = 4096
"""Tensors with fewer values keep float32 states there."""


@dataclass(frozen=True)
class Kept:
    """What an optimiser keeps.

    Attributes:
        states: tensors of the parameter's size.
        bits: 8, or 0 for the parameter's own dtype, or 32.
        works_on_copies: whether a step on a GPU makes a copy of all states at once (PyTorch's `foreach` loops).
        is_known: whether this is the optimiser's own, or AdamW's in its place.
    """

    states: float
    bits: int = 0
    works_on_copies: bool = False
    is_known: bool = True


_STATES_KEPT = {
    "adamw_torch": Kept(2, works_on_copies=True),
    "adamw_torch_fused": Kept(2),
    "adamw_apex_fused": Kept(2),
    "adamw_8bit": Kept(2, 8),
    "adamw_bnb_8bit": Kept(2, 8),
    "adamw_torch_8bit": Kept(2, 8),
    "paged_adamw_32bit": Kept(2, 32),
    "paged_adamw_8bit": Kept(2, 8),
    "ademamix": Kept(3, 32),
    "ademamix_8bit": Kept(3, 8),
    "paged_ademamix_32bit": Kept(3, 32),
    "paged_ademamix_8bit": Kept(3, 8),
    "lion_32bit": Kept(1, 32),
    "lion_8bit": Kept(1, 8),
    "paged_lion_32bit": Kept(1, 32),
    "paged_lion_8bit": Kept(1, 8),
    "rmsprop": Kept(1, works_on_copies=True),
    "rmsprop_bnb": Kept(1, 32),
    "rmsprop_bnb_32bit": Kept(1, 32),
    "rmsprop_bnb_8bit": Kept(1, 8),
    "adagrad": Kept(1, works_on_copies=True),
    "sgd": Kept(0),
    "adafactor": Kept(0),
}


def kept_by(optim: str) -> Kept:
    """What an optimiser keeps; one that is not known is taken for AdamW."""
    return _STATES_KEPT.get(str(optim), Kept(2, is_known=False))


def state_bytes(optim: str, parameters: Sequence[torch.Tensor], embeddings: Sequence[torch.Tensor] = ()) -> int:
    """Bytes of an optimiser's states.

    Args:
        optim: as in the settings.
        parameters: that are trained.
        embeddings: those of them that Trainer lets bitsandbytes keep 32-bit states of.
    """
    kept = kept_by(optim)
    if optim == "adafactor":  # a row and a column of every matrix, in float32
        return sum(4 * _rows_and_columns(parameter) for parameter in parameters)
    wide = {id(parameter) for parameter in embeddings}
    total = 0.0
    for parameter in parameters:
        count = parameter.numel()
        if kept.bits == 8 and count >= _SMALLEST and id(parameter) not in wide:
            each = count + 4 * -(-count // _BLOCK)
        else:
            each = count * (4 if kept.bits else parameter.element_size())
        total += kept.states * each
    return round(total)


def step_bytes(optim: str, parameters: Sequence[torch.Tensor], *, on_gpu: bool) -> int:
    """Bytes that a step takes beside weights, gradients and states."""
    sizes = [parameter.numel() * parameter.element_size() for parameter in parameters]
    if not sizes:
        return 0
    if on_gpu:
        return sum(sizes) if kept_by(optim).works_on_copies else 0
    return 2 * max(sizes) if kept_by(optim).works_on_copies else 0


def _rows_and_columns(parameter: torch.Tensor) -> int:
    if parameter.dim() < 2:
        return parameter.numel()
    return parameter.numel() // parameter.size(-1) + parameter.numel() // parameter.size(-2)
