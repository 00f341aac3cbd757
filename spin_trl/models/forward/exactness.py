"""Whether a model gives the same over unique tokens, found out by running it: no list of rules knows every model."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from .head import Forward, over_rows, over_unique_tokens
from .layout import lay_out

NOISE_PER_TOKEN = {torch.float64: 1e-8, torch.float32: 2e-4, torch.float16: 5e-2, torch.bfloat16: 3e-1}
"""Largest difference, in nats, that computing the same log-probability twice may make: times the square root of the
number of tokens, since the errors of tokens are independent. Measured differences are a tenth of this or less."""


@torch.no_grad()
def why_inexact(model: Any, forward: Forward, device: torch.device, tolerance: float) -> str | None:
    """Run a small pair both ways, as in training: why the results differ, or None.

    Args:
        model: with TRL's fused LM head.
        forward: its class's, with that head.
        device: of its inputs.
        tolerance: nats by which a token's log-probability may differ.
    """
    name = type(model).__name__
    ids = torch.arange(8, device=device) % model.config.get_text_config().vocab_size
    input_ids = torch.stack([torch.cat([ids[:5], ids[:1]]), torch.cat([ids[:3], ids[5:]])])
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, -1] = 0
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    labels[:, :3] = -100
    tokens = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    kwargs = {**tokens, "use_cache": False, "fused_lm_head": True}
    with _as_in_training(model, device):
        expected, again = (over_rows(model, forward, kwargs).log_probs for _ in range(2))
        if _largest_difference(expected, again) > tolerance / 10:
            return f"{name} draws random numbers in training, and both responses would share their prompt's"
        try:
            found = over_unique_tokens(model, forward, kwargs, lay_out(**tokens, num_pairs=1)).log_probs
        except Exception as error:
            return f"{name} does not run over a row of unique tokens ({error})"
    difference = _largest_difference(expected, found)
    if difference <= tolerance:
        return None
    return f"{name} gives other log-probabilities over unique tokens (by {difference:.3g} nats a token)"


def _largest_difference(one: torch.Tensor | None, other: torch.Tensor | None) -> float:
    assert one is not None
    assert other is not None
    return float((one - other).abs().max().nan_to_num(torch.inf))


@contextlib.contextmanager
def _as_in_training(model: Any, device: torch.device) -> Iterator[None]:
    """A model in training mode, which then is as it was, and so is the random state."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # checkpointing wonders why there are no gradients
            yield
    finally:
        for module, mode in modes:
            module.training = mode
