"""Compute log-probabilities of responses, or of their tokens, under a model, in batches of similar length."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from trl.trainer.utils import add_fused_lm_head, pad

from .adapters import Policy, without_adapter
from .forward.batch import Forwards


def response_logps(
    model: Policy,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    pad_token_id: int,
    batch_size: int,
    autocast: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """Return the summed log-probability of each response given its prompt, in nats; leave the model in evaluation mode.

    Args:
        model: causal language model, or a PEFT model around one.
        pairs: token ids of prompts and responses. An empty response has log-probability 0.
        pad_token_id: id of the token that pads rows.
        batch_size: rows per forward.
        autocast: returns the context to run the model in.
        on_progress: called after each forward with the number of responses done.
    """
    logps = [0.0] * len(pairs)
    done = 0
    for batch, log_probs in _scored_batches(model, pairs, pad_token_id, batch_size, autocast):
        for row, logp in zip(batch, log_probs.sum(dim=1).tolist(), strict=True):
            logps[row] = logp
        done += len(batch)
        on_progress(done)
    return logps


def token_logps(
    model: Policy,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    pad_token_id: int,
    batch_size: int,
    autocast: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
) -> list[list[float]]:
    """Return the log-probability of each token of each response, in nats; leave the model in evaluation mode.

    Args:
        model: causal language model, or a PEFT model around one.
        pairs: token ids of prompts, which must not be empty, and of responses.
        pad_token_id: id of the token that pads rows.
        batch_size: rows per forward.
        autocast: returns the context to run the model in.
    """
    logps: list[list[float]] = [[] for _ in pairs]
    for batch, log_probs in _scored_batches(model, pairs, pad_token_id, batch_size, autocast):
        for row, of_row in zip(batch, log_probs.tolist(), strict=True):
            prompt, response = pairs[row]
            # Place i is the log-probability of token i + 1.
            logps[row] = of_row[len(prompt) - 1 : len(prompt) - 1 + len(response)]
    return logps


def _scored_batches(
    model: Policy,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    pad_token_id: int,
    batch_size: int,
    autocast: Callable[[], AbstractContextManager[object]],
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield batches of rows of similar length with their tokens' log-probabilities, shape (rows, tokens - 1).

    They are 0 at tokens that are not of a response.
    """
    inner = without_adapter(model)
    if not getattr(inner, "_has_fused_head", False):
        # TRL's head over labelled positions, added once. It returns log-probabilities instead of logits.
        add_fused_lm_head(inner)
        Forwards(wanted=False).wrap(inner)
        # torch types all attributes of a module as tensors and modules.
        inner._has_fused_head = True  # type: ignore[assignment]
    model.eval()
    order = sorted(range(len(pairs)), key=lambda row: len(pairs[row][0]) + len(pairs[row][1]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids = [torch.tensor([*pairs[row][0], *pairs[row][1]]) for row in batch]
        labels = [torch.tensor([-100] * len(pairs[row][0]) + list(pairs[row][1])) for row in batch]
        with torch.inference_mode(), autocast():
            output = model(
                input_ids=pad(ids, padding_value=pad_token_id).to(model.device),
                attention_mask=pad([torch.ones_like(row) for row in ids], padding_value=0).to(model.device),
                labels=pad(labels, padding_value=-100).to(model.device),
                fused_lm_head=True,
            )
        yield batch, output.log_probs.float()
