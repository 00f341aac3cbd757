"""A third branch beside DPO's two: proto responses run through the same forward, unseen by the caller.

DPOTrainer sees its 2B rows. One forward for all three branches, not two, is what DDP and FSDP want, and what lets a
forward that shares prompts share them among all three.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

PROTO_PREFIX = "proto_"
"""Of the third branch's keys in a batch: `proto_input_ids`, `proto_attention_mask`, `proto_completion_mask`."""

_PADDING = {"input_ids": 0, "attention_mask": 0, "labels": -100}


def joined(rows: Mapping[str, torch.Tensor], more: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows of two batches in one: `input_ids`, `attention_mask` and `labels`, filled up on the right to the longer."""
    length = max(rows["labels"].size(1), more["labels"].size(1))

    def wide(name: str, value: torch.Tensor) -> torch.Tensor:
        return F.pad(value, (0, length - value.size(1)), value=_PADDING[name])

    return {name: torch.cat([wide(name, rows[name]), wide(name, more[name])]) for name in _PADDING}


def with_labels(rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows with labels: from `input_ids`, `attention_mask` and `completion_mask`, which says what is scored."""
    labels = rows["input_ids"].masked_fill(rows["completion_mask"] == 0, -100)
    return {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"], "labels": labels}


@contextlib.contextmanager
def third_branch(model: torch.nn.Module, rows: Mapping[str, torch.Tensor] | None) -> Iterator[list[torch.Tensor]]:
    """Let the next forward of a model score further rows.

    Args:
        model: called with `input_ids`, `attention_mask` and `labels` of shape (rows, length), padded on the right.
        rows: `input_ids`, `attention_mask` and `completion_mask` of shape (more rows, another length); None: there are none.

    Yields:
        A list that will hold their summed log-probabilities, of shape (more rows,), in nats, with their gradient.
    """
    found: list[torch.Tensor] = []
    if rows is None:
        yield found
        return
    more = with_labels(rows)
    shape: list[torch.Size] = []

    def add(module: torch.nn.Module, inputs: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if shape:  # a reference's or another forward
            return None
        shape.append(kwargs["input_ids"].shape)
        return inputs, kwargs | joined(kwargs, more)

    def take(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        if found:
            return None
        (count, length) = shape[0]
        found.append(output.log_probs[count:].sum(dim=1))
        surplus = max(more["labels"].size(1) - length, 0)
        for name, value in output.items():
            if isinstance(value, torch.Tensor) and value.dim() > 1 and value.size(0) == count + len(more["labels"]):
                output[name] = value[:count, : value.size(1) - surplus]
        return output

    handles = [model.register_forward_pre_hook(add, with_kwargs=True), model.register_forward_hook(take)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
