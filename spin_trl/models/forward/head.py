"""The LM head sees labelled positions only, on every device.

TRL's fused head scores every position where it has no Triton, prompts and padding included. Handing it the hidden states of
labelled positions alone needs no other head: the model's backbone is asked for fewer of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import trl.trainer.utils
from transformers.modeling_outputs import ModelOutput
from trl.trainer.utils import FusedCausalLMOutput

CPU_TILE = 2048
"""Columns of the vocabulary that TRL's head computes at once on a CPU: its own 32,768 leave the caches behind
(benchmarks/training.py has an arm for it)."""


@contextlib.contextmanager
def labelled_positions(backbone: torch.nn.Module, scored: torch.Tensor) -> Iterator[None]:
    """Let a backbone return the hidden states of some positions only, while the context lasts.

    Args:
        backbone: called once, returns `last_hidden_state` of shape (rows, length, width).
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


def spread(output: FusedCausalLMOutput, scatter: Callable[[torch.Tensor], torch.Tensor]) -> FusedCausalLMOutput:
    """The head's results of shape (1, labels), where a trainer looks for them.

    Args:
        output: of TRL's head.
        scatter: from (labels,) to (rows, length - 1).
    """
    for name, value in output.items():
        if isinstance(value, torch.Tensor) and value.dim() == 2:
            output[name] = scatter(value[0])
    return output


@contextlib.contextmanager
def _tile(columns: int) -> Iterator[None]:
    """Let TRL's head compute so many columns of the vocabulary at once. It has no argument for that."""
    name = "_CHUNKED_LOGPROB_CHUNK_SIZE"
    before = getattr(trl.trainer.utils, name, None)
    if before is None:  # another version of TRL: slower, and the same numbers
        yield
        return
    setattr(trl.trainer.utils, name, min(before, columns))
    try:
        yield
    finally:
        setattr(trl.trainer.utils, name, before)
