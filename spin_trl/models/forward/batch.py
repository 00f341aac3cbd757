"""The only place that intercepts a model's forward: it chooses the tokens a batch runs over, and records the results.

`DPOTrainer` runs every prompt twice, pads every row to the longest, and knows two responses. It is left unchanged. The model
runs once over a row that holds every token of the batch once (prefix sharing, arXiv 2410.20305), together with a third
response if an objective uses one. The results are put where the trainer expects them, and log-probs are recorded for our
objectives. Loss, metrics and gradients are the same up to floating-point noise; where they would not be, the forward runs
over rows, and a warning gives the reason once.

A forward is intercepted at two levels. What a model runs over is decided in its own `forward`, since the wrappers of PEFT,
accelerate and FSDP around it expect rows. Inputs and outputs are observed by hooks around all wrappers: FSDP rounds a
forward's outputs in mixed precision, and our objectives must see what the parent's losses see.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import is_peft_model

from ...errors import RecipeError
from . import obstacles
from .attention import IMPLEMENTATIONS
from .head import TOKENS, Forward, over_rows, over_unique_tokens
from .layout import Layout, lay_out

logger = logging.getLogger(__name__)

LAYOUT = "unique_tokens_layout"
"""Key under which a batch carries the layout of its unique tokens, computed in the data loader's worker."""

PROTO_PREFIX = "proto_"
"""Prefix of the third response's keys in a batch: `proto_input_ids`, `proto_attention_mask`, `proto_completion_mask`."""

_PADDING = {"input_ids": 0, "attention_mask": 0, "labels": -100}


def joined(rows: Mapping[str, torch.Tensor], more: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Concatenate the rows of two batches: `input_ids`, `attention_mask` and `labels`, padded on the right to the longer."""
    length = max(rows["labels"].size(1), more["labels"].size(1))

    def wide(name: str, value: torch.Tensor) -> torch.Tensor:
        return F.pad(value, (0, length - value.size(1)), value=_PADDING[name])

    return {name: torch.cat([wide(name, rows[name]), wide(name, more[name])]) for name in _PADDING}


def with_labels(rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return rows with labels, from `input_ids`, `attention_mask` and `completion_mask`, which marks what is scored."""
    labels = rows["input_ids"].masked_fill(rows["completion_mask"] == 0, -100)
    return {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"], "labels": labels}


def third_rows(batch: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
    """Return the third responses of a batch, with labels; None if it has none."""
    rows = {name.removeprefix(PROTO_PREFIX): batch[name] for name in batch if name.startswith(PROTO_PREFIX)}
    return with_labels(rows) if rows else None


@dataclass
class Passing:
    """A batch on its way through the models.

    Attributes:
        num_pairs: pairs in the batch; each branch has as many rows.
        layout: layout for the policy's input, or None.
        third: rows added to the first forward without its caller noticing; or None.
        log_probs: per-token results of each forward, in order: the policy's first, then the opponent's if it runs.
        third_logps: summed log-probabilities of `third`, shape (num_pairs,), in nats, with their gradient.
    """

    num_pairs: int
    layout: Layout | None = None
    third: dict[str, torch.Tensor] | None = None
    log_probs: list[torch.Tensor] = field(default_factory=list)
    third_logps: torch.Tensor | None = None
    _shape: torch.Size | None = field(default=None, init=False)

    def add_third(self, module: torch.nn.Module, inputs: Any, kwargs: dict[str, Any]) -> Any:
        """Add the third responses to the first forward, which is the policy's. This is a pre-forward hook.

        DDP and FSDP need a single forward for all three, and it lets all three share their prompts.
        """
        if self.third is None or self._shape is not None:
            return None
        self._shape = kwargs["input_ids"].shape
        return inputs, kwargs | joined(kwargs, self.third)

    def take(self, module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        """Remove the third responses' part from the output, and record the log-probabilities. This is a forward hook."""
        if self.third is not None and self._shape is not None and self.third_logps is None:
            count, length = self._shape
            rows, columns = self.third["labels"].shape
            self.third_logps = output.log_probs[count:].sum(dim=1)
            for name, value in output.items():
                if isinstance(value, torch.Tensor) and value.dim() > 1 and value.size(0) == count + rows:
                    output[name] = value[:count, : value.size(1) - max(columns - length, 0)]
        if getattr(output, "log_probs", None) is not None:
            self.log_probs.append(output.log_probs)
        return output


class Forwards:
    """The forwards of a trainer's models, which run over unique tokens within [`Forwards.batch`].

    Args:
        wanted: True: raise if that can't be exact. None: fall back to running over rows, and give the reason. False: always
            run over rows. In every case the LM head only sees labelled positions.
        obstacle: reason against it that the trainer knows, regardless of the model.
        dtype: dtype that forwards compute in.
    """

    def __init__(self, wanted: bool | None, obstacle: str | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.wanted = wanted
        self._obstacle = obstacle
        self._tolerance = obstacles.NOISE_PER_TOKEN.get(dtype, obstacles.NOISE_PER_TOKEN[torch.bfloat16]) / 3
        self.shares = False
        """Whether a wrapped model runs over unique tokens, as far as known before its first batch."""
        self._said: set[str] = set()
        self._passing: Passing | None = None

    def wrap(self, model: Any) -> None:
        """Wrap the forward of a model that has TRL's fused LM head.

        Args:
            model: causal language model, or a PEFT model around one, not yet wrapped for distributed training.

        Raises:
            RecipeError: if sharing is required, but can't be exact with this model.
        """
        inner: Any = model.get_base_model() if is_peft_model(model) else model
        obstacle = obstacles.of_model(model) or self._obstacle
        if obstacle is not None and self.wanted:
            self._fall_back(obstacle)
        if obstacle is None and self.wanted is not False:
            self.shares = True
            attention = inner.config._attn_implementation
            inner.set_attn_implementation(IMPLEMENTATIONS.get(attention, attention))
        # A method, like TRL's, around an unbound function, so that the model can still be saved whole and copied.
        function = getattr(inner.forward, "__func__", inner.forward)
        inner.forward = types.MethodType(self._around(function, obstacle), inner)

    def leave_alone(self) -> None:
        """Wrap no model, so that they run as TRL made them. Give the reason, or raise if sharing is required."""
        if self.wanted is not False:
            self._fall_back(str(self._obstacle))

    @contextlib.contextmanager
    def batch(self, batch: Mapping[str, Any], *watched: torch.nn.Module | None) -> Iterator[Passing]:
        """Make forwards run over the unique tokens of a batch within the context.

        Args:
            batch: `input_ids` of shape (2 * pairs, length). The layout that it carries is used if it fits.
            watched: models as the trainer calls them, the policy first, which also scores the batch's third responses;
                their log-probabilities are recorded.
        """
        self._passing = Passing(len(batch["input_ids"]) // 2, batch.get(LAYOUT), third_rows(batch))
        with contextlib.ExitStack() as hooks:
            for model in (model for model in watched if model is not None):
                hooks.callback(model.register_forward_pre_hook(self._passing.add_third, with_kwargs=True).remove)
                hooks.callback(model.register_forward_hook(self._passing.take).remove)
            try:
                yield self._passing
            finally:
                self._passing = None

    def _around(self, forward: Forward, obstacle: str | None) -> Forward:
        is_probed = False

        @functools.wraps(forward)
        def run(model: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal is_probed, obstacle
            if args or not kwargs.get("fused_lm_head") or kwargs.get("labels") is None:
                return forward(model, *args, **kwargs)
            if self._passing is None or self.wanted is False:
                return over_rows(model, forward, kwargs)
            reason = obstacle or obstacles.of_call(kwargs)
            if reason is None and not is_probed:
                device = kwargs["input_ids"].device
                reason = obstacle = obstacles.why_inexact(model, forward, device, self._tolerance)
                is_probed = True
            found = reason or _layout_of(self._passing, model, *(kwargs[name] for name in TOKENS))
            if isinstance(found, str):
                self._fall_back(found)
                return over_rows(model, forward, kwargs)
            return over_unique_tokens(model, forward, kwargs, found)

        return run

    def _fall_back(self, reason: str) -> None:
        if self.wanted:
            raise RecipeError(
                f"`shared_prefix: true` is not possible here: {reason}. Leave it out to run prompts once per response."
            )
        kind = re.sub(r"\d[\d.e+-]*", "", reason)  # the reason without its numbers, so that it is logged once
        if kind not in self._said:
            self._said.add(kind)
            logger.warning("Prompts are not shared between responses: %s.", reason)


def _layout_of(
    passing: Passing, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> Layout | str:
    """Return the layout for a call, or the reason why there is none."""
    layout = passing.layout
    if layout is None or layout.shape != tuple(input_ids.shape):
        try:
            layout = lay_out(input_ids, attention_mask, labels, passing.num_pairs)
        except ValueError as error:
            return str(error)
    return obstacles.of_length(model.config, layout.longest) or layout.to(input_ids.device)
