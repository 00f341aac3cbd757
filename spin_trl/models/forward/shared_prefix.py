"""One forward over the unique tokens of a batch, under an unchanged trainer (prefix sharing, arXiv 2410.20305).

DPOTrainer runs every prompt twice, and fills up every row to the longest. Here a model's forward is wrapped: the trainer
hands it the batch that it always had, the wrapper runs the model once over a row in which every token is there once, and
puts the results where the trainer looks for them. Loss, metrics and gradients are the same up to floating-point noise;
where they would not be, the forward stays as it was, and the reason is said once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import types
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import is_peft_model

from ...errors import RecipeError
from . import obstacles
from .attention import IMPLEMENTATIONS
from .exactness import NOISE_PER_TOKEN, why_inexact
from .layout import Layout, lay_out
from .passes import TOKENS, Forward, over_rows, over_unique_tokens

logger = logging.getLogger(__name__)


class SharedPrefix:
    """Wraps the forwards of a trainer's models, so that they run over unique tokens while [`SharedPrefix.batch`] lasts.

    Args:
        wanted: True: where that can't be exact, raise. None: run as the trainer would, and say why. False: always run as
            the trainer would. In every case the LM head sees labelled positions only.
        obstacle: what the trainer knows against it, whatever the model.
        dtype: in which forwards compute.
    """

    def __init__(self, wanted: bool | None, obstacle: str | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.wanted = wanted
        self._obstacle = obstacle
        self._tolerance = NOISE_PER_TOKEN.get(dtype, NOISE_PER_TOKEN[torch.bfloat16]) / 3
        self._said: set[str] = set()
        self._num_pairs = 0
        self._layout: Layout | None = None

    def wrap(self, model: Any) -> bool:
        """Wrap the forward of a model that has TRL's fused LM head, and say whether it will run over unique tokens.

        Args:
            model: a causal language model, or a PEFT model around one, not yet wrapped for distributed training.

        Raises:
            RecipeError: sharing is wanted, and can't be exact with this model.
        """
        inner: Any = model.get_base_model() if is_peft_model(model) else model
        obstacle = obstacles.of_model(model) or self._obstacle
        if obstacle is not None and self.wanted:
            self._fall_back(obstacle)
        shares = obstacle is None and self.wanted is not False
        if shares:
            attention = inner.config._attn_implementation
            inner.set_attn_implementation(IMPLEMENTATIONS.get(attention, attention))
        # A method, as TRL's, and around a function that is not bound: so the model can still be saved whole and copied.
        function = getattr(inner.forward, "__func__", inner.forward)
        inner.forward = types.MethodType(self._around(function, obstacle), inner)
        return shares

    def leave_alone(self, model: Any) -> None:
        """Not even wrap a model, which runs as TRL has made it; say why, or raise if sharing is wanted."""
        if self.wanted is not False:
            self._fall_back(str(self._obstacle or obstacles.of_model(model)))

    @contextlib.contextmanager
    def batch(self, num_pairs: int, layout: Layout | None = None) -> Iterator[None]:
        """Let forwards run over the unique tokens of a batch while the context lasts.

        Args:
            num_pairs: pairs of the batch; each branch has as many rows.
            layout: made for what the policy sees. Where it is None or does not fit, one is made.
        """
        self._num_pairs, self._layout = num_pairs, layout
        try:
            yield
        finally:
            self._num_pairs, self._layout = 0, None

    def _around(self, forward: Forward, obstacle: str | None) -> Forward:
        is_probed = False

        @functools.wraps(forward)
        def run(model: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal is_probed, obstacle
            if args or not kwargs.get("fused_lm_head") or kwargs.get("labels") is None:
                return forward(model, *args, **kwargs)
            if not self._num_pairs or self.wanted is False:
                return over_rows(model, forward, kwargs)
            others = {name: value for name, value in kwargs.items() if name not in TOKENS}
            reason = obstacle or obstacles.of_call(others)
            if reason is None and not is_probed:
                device = kwargs["input_ids"].device
                reason = obstacle = why_inexact(model, forward, device, self._tolerance)
                is_probed = True
            layout = None
            if reason is None:
                layout, reason = self._lay_out(model, *(kwargs[name] for name in TOKENS))
            if layout is None:
                self._fall_back(str(reason))
                return over_rows(model, forward, kwargs)
            return over_unique_tokens(model, forward, kwargs, layout)

        return run

    def _lay_out(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[Layout | None, str | None]:
        """The layout of a call, or why there is none."""
        layout = self._layout
        if layout is None or layout.shape != tuple(input_ids.shape):
            try:
                layout = lay_out(input_ids, attention_mask, labels, self._num_pairs)
            except ValueError as error:
                return None, str(error)
        reason = obstacles.of_length(model.config, layout.longest)
        return (layout.to(input_ids.device), None) if reason is None else (None, reason)

    def _fall_back(self, reason: str) -> None:
        if self.wanted:
            raise RecipeError(
                f"`shared_prefix: true` can't be had: {reason}. Leave it out, and prompts are run twice."
            )
        kind = re.sub(r"\d[\d.e+-]*", "", reason)  # the same reason, whatever its numbers
        if kind not in self._said:
            self._said.add(kind)
            logger.warning("Prompts are not shared by their responses: %s.", reason)
