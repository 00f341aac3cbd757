"""The only interception of a model's forward: what a batch runs over, and what it returned.

`DPOTrainer` runs every prompt twice, fills up every row to the longest, and knows two responses. It stays as it is. The
model runs once over a row in which every token of the batch is there once (prefix sharing, arXiv 2410.20305), and a third
response goes along where an objective takes one. The trainer finds its results where it looks for them, and log-probs
are noted for our objectives. Loss, metrics and gradients are the same up to floating-point noise; where they would not be,
the forward runs over rows, and a warning says why, once.

There are two places to take hold of a forward. What a model runs over is decided in its own `forward`: those of PEFT,
accelerate and FSDP around it take rows. What goes in and comes out is seen by hooks around all of them: FSDP rounds what a
forward returns in mixed precision, and our objectives must see what the parent's losses see.
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
"""Key under which a batch carries the layout of its unique tokens, made in the data loader's worker."""

PROTO_PREFIX = "proto_"
"""Of the third response's keys in a batch: `proto_input_ids`, `proto_attention_mask`, `proto_completion_mask`."""

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


def third_rows(batch: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
    """The third responses of a batch, with labels; None where it has none."""
    rows = {name.removeprefix(PROTO_PREFIX): batch[name] for name in batch if name.startswith(PROTO_PREFIX)}
    return with_labels(rows) if rows else None


@dataclass
class Passing:
    """A batch on its way through models.

    Attributes:
        num_pairs: pairs of the batch; each branch has as many rows.
        layout: made for what the policy sees, or None.
        third: rows that go through the first forward with those of its caller, who sees nothing of them; or None.
        log_probs: what each forward returned, by token, in order: the policy's first, and the opponent's if it runs.
        third_logps: summed log-probabilities of `third`, shape (num_pairs,), in nats, with their gradient.
    """

    num_pairs: int
    layout: Layout | None = None
    third: dict[str, torch.Tensor] | None = None
    log_probs: list[torch.Tensor] = field(default_factory=list)
    third_logps: torch.Tensor | None = None
    _shape: torch.Size | None = field(default=None, init=False)

    def add_third(self, module: torch.nn.Module, inputs: Any, kwargs: dict[str, Any]) -> Any:
        """Before a forward: the first one, which is the policy's, scores the third responses, too.

        One forward for all three, not two, is what DDP and FSDP want, and what lets all three share their prompts.
        """
        if self.third is None or self._shape is not None:
            return None
        self._shape = kwargs["input_ids"].shape
        return inputs, kwargs | joined(kwargs, self.third)

    def take(self, module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        """After a forward: the third responses' part is taken out, and the log-probabilities of the others are noted."""
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
    """The forwards of a trainer's models, which run over unique tokens while [`Forwards.batch`] lasts.

    Args:
        wanted: True: where that can't be exact, raise. None: run as the trainer would, and say why. False: always run as
            the trainer would. In every case the LM head sees labelled positions only.
        obstacle: what the trainer knows against it, whatever the model.
        dtype: in which forwards compute.
    """

    def __init__(self, wanted: bool | None, obstacle: str | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.wanted = wanted
        self._obstacle = obstacle
        self._tolerance = obstacles.NOISE_PER_TOKEN.get(dtype, obstacles.NOISE_PER_TOKEN[torch.bfloat16]) / 3
        self.shares = False
        """Whether a wrapped model runs over unique tokens, as far as is known before its first batch."""
        self._said: set[str] = set()
        self._passing: Passing | None = None

    def wrap(self, model: Any) -> None:
        """Wrap the forward of a model that has TRL's fused LM head.

        Args:
            model: a causal language model, or a PEFT model around one, not yet wrapped for distributed training.

        Raises:
            RecipeError: sharing is wanted, and can't be exact with this model.
        """
        inner: Any = model.get_base_model() if is_peft_model(model) else model
        obstacle = obstacles.of_model(model) or self._obstacle
        if obstacle is not None and self.wanted:
            self._fall_back(obstacle)
        if obstacle is None and self.wanted is not False:
            self.shares = True
            attention = inner.config._attn_implementation
            inner.set_attn_implementation(IMPLEMENTATIONS.get(attention, attention))
        # A method, as TRL's, and around a function that is not bound: so the model can still be saved whole and copied.
        function = getattr(inner.forward, "__func__", inner.forward)
        inner.forward = types.MethodType(self._around(function, obstacle), inner)

    def leave_alone(self) -> None:
        """Wrap no model: they run as TRL has made them. Say why, or raise if sharing is wanted."""
        if self.wanted is not False:
            self._fall_back(str(self._obstacle))

    @contextlib.contextmanager
    def batch(self, batch: Mapping[str, Any], *watched: torch.nn.Module | None) -> Iterator[Passing]:
        """Let forwards run over the unique tokens of a batch while the context lasts.

        Args:
            batch: `input_ids` of shape (2 * pairs, length). The layout that it carries is used where it fits.
            watched: as the trainer calls them, the policy first: models that score the third responses of the batch with
                it, and whose log-probabilities are noted.
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
                f"`shared_prefix: true` can't be had: {reason}. Leave it out, and prompts are run twice."
            )
        kind = re.sub(r"\d[\d.e+-]*", "", reason)  # the same reason, whatever its numbers
        if kind not in self._said:
            self._said.add(kind)
            logger.warning("Prompts are not shared by their responses: %s.", reason)


def _layout_of(
    passing: Passing, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> Layout | str:
    """The layout of a call, or why there is none."""
    layout = passing.layout
    if layout is None or layout.shape != tuple(input_ids.shape):
        try:
            layout = lay_out(input_ids, attention_mask, labels, passing.num_pairs)
        except ValueError as error:
            return str(error)
    return obstacles.of_length(model.config, layout.longest) or layout.to(input_ids.device)
