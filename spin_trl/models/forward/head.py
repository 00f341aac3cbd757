"""A model's forward with TRL's head, over the rows of a batch or over its unique tokens, with the same results.

On every device the head only sees labelled positions. Without Triton, TRL's own scores every position, including prompts and
padding. Passing it only the hidden states of labelled positions needs no other head, but a hook on the model's backbone,
since TRL's head calls the backbone itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import trl.trainer.utils
from transformers.modeling_outputs import ModelOutput
from trl.trainer.utils import FusedCausalLMOutput

from .attention import attention_inputs
from .layout import Layout, scattered

Forward = Callable[..., FusedCausalLMOutput]
"""A class's forward: called with a model and keyword arguments."""

TOKENS = ("input_ids", "attention_mask", "labels")
"""Arguments that a layout is made from, and replaces."""

CPU_TILE = 2048
"""Columns of the vocabulary that TRL's head computes at once on a CPU. TRL's own 32,768 do not fit the caches
(benchmarks/training.py has an arm for it)."""


def over_unique_tokens(model: Any, forward: Forward, kwargs: dict[str, Any], layout: Layout) -> FusedCausalLMOutput:
    """Run a batch as the row of its unique tokens.

    Args:
        model: model with TRL's fused LM head.
        forward: forward of its class, with that head.
        kwargs: arguments of the call.
        layout: layout of the batch in `kwargs`, on its device.
    """
    inputs = {name: value for name, value in kwargs.items() if name not in TOKENS} | attention_inputs(layout)
    inputs["input_ids"] = layout.gather(kwargs["input_ids"])[None]
    inputs["position_ids"] = layout.position_ids
    if hasattr(model.config, "output_router_logits"):
        # If an auxiliary loss is used, the batch runs over rows. If not, TRL's head would compute it anyway.
        inputs["output_router_logits"] = False
    with labelled_positions(model.base_model, layout.scored):
        output = forward(model, **inputs, shift_labels=layout.targets)
    return spread(output, layout.slots, layout.shape)


def over_rows(model: Any, forward: Forward, kwargs: dict[str, Any]) -> FusedCausalLMOutput:
    """Run a batch over its rows, with the LM head on labelled positions only. Arguments as above."""
    labels = kwargs["labels"]
    rows, length = labels.shape
    slots = (labels[:, 1:] != -100).flatten().nonzero().squeeze(1)
    scored = slots + slots // max(length - 1, 1)  # results have one column less than rows
    inputs = {name: value for name, value in kwargs.items() if name != "labels"}
    with labelled_positions(model.base_model, scored):
        output = forward(model, **inputs, shift_labels=labels[:, 1:].flatten().index_select(0, slots)[None])
    return spread(output, slots, (rows, length))


@contextlib.contextmanager
def labelled_positions(backbone: torch.nn.Module, scored: torch.Tensor) -> Iterator[None]:
    """Make a backbone return only the hidden states of some positions within the context.

    Args:
        backbone: model body, called once; returns `last_hidden_state` of shape (rows, length, width).
        scored: index into the flattened positions, shape (labels,); the states have shape (1, labels, width).
    """

    def select(module: torch.nn.Module, inputs: object, output: ModelOutput) -> ModelOutput:
        states = output["last_hidden_state"].flatten(0, 1)
        output["last_hidden_state"] = states.index_select(0, scored.to(states.device))[None]
        return output

    handle = backbone.register_forward_hook(select)
    try:
        with _tile(CPU_TILE) if scored.device.type == "cpu" else contextlib.nullcontext():
            yield
    finally:
        handle.remove()


def spread(output: FusedCausalLMOutput, slots: torch.Tensor, shape: tuple[int, int]) -> FusedCausalLMOutput:
    """Move the head's results of shape (1, labels) to where a trainer expects them.

    Args:
        output: output of TRL's head.
        slots, shape: as for [`scattered`].
    """
    for name, value in output.items():
        if isinstance(value, torch.Tensor) and value.dim() == 2:
            output[name] = scattered(value[0], slots.to(value.device), shape)
    return output


def _tile(columns: int) -> contextlib.AbstractContextManager[object]:
    """Set how many columns of the vocabulary TRL's head computes at once. It has no argument for that."""
    name = "_CHUNKED_LOGPROB_CHUNK_SIZE"
    before = getattr(trl.trainer.utils, name, None)
    if before is None:  # another version of TRL: slower, with the same results
        return contextlib.nullcontext()
    return mock.patch.object(trl.trainer.utils, name, min(before, columns))
