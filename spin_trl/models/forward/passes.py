"""A model's forward as a trainer calls it: over the rows of a batch, or over its unique tokens, with the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trl.trainer.utils import FusedCausalLMOutput

from .attention import attention_inputs
from .head import labelled_positions, spread
from .layout import Layout, scattered

Forward = Callable[..., FusedCausalLMOutput]
"""Of a class: called with a model, and keywords."""

TOKENS = ("input_ids", "attention_mask", "labels")
"""What a layout is made of, and replaces."""


def over_unique_tokens(model: Any, forward: Forward, kwargs: dict[str, Any], layout: Layout) -> FusedCausalLMOutput:
    """A batch run as the row of its unique tokens.

    Args:
        model: with TRL's fused LM head.
        forward: its class's, with that head.
        kwargs: of the call.
        layout: of the batch in `kwargs`, on its device.
    """
    inputs = {name: value for name, value in kwargs.items() if name not in TOKENS} | attention_inputs(layout)
    inputs["input_ids"] = layout.gather(kwargs["input_ids"])[None]
    inputs["position_ids"] = layout.position_ids
    if hasattr(model.config, "output_router_logits"):
        # Where an auxiliary loss counts, rows are run. Where none does, TRL's head would compute it all the same.
        inputs["output_router_logits"] = False
    with labelled_positions(model.base_model, layout.scored):
        output = forward(model, **inputs, shift_labels=layout.targets)
    return spread(output, layout.scatter)


def over_rows(model: Any, forward: Forward, kwargs: dict[str, Any]) -> FusedCausalLMOutput:
    """A batch run as it is, of which the LM head sees labelled positions only. Arguments as above."""
    labels = kwargs["labels"]
    rows, length = labels.shape
    slots = (labels[:, 1:] != -100).flatten().nonzero().squeeze(1)
    scored = slots + slots // max(length - 1, 1)  # results have a column less than rows
    inputs = {name: value for name, value in kwargs.items() if name != "labels"}
    with labelled_positions(model.base_model, scored):
        output = forward(model, **inputs, shift_labels=labels[:, 1:].flatten().index_select(0, slots)[None])
    return spread(output, lambda results: scattered(results, slots.to(results.device), (rows, length)))
