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
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import is_peft_model
from trl.trainer.utils import FusedCausalLMOutput

from .errors import RecipeError
from .forward import obstacles
from .forward.attention import OURS, attention_inputs
from .forward.head import labelled_positions, spread
from .forward.layout import Layout, lay_out
from .opponent import NOISE_PER_TOKEN

logger = logging.getLogger(__name__)

Forward = Callable[..., Any]


class SharedPrefix:
    """Wraps the forwards of a trainer's models, so that they run over unique tokens while [`batch`] lasts.

    Args:
        wanted: True: where that can't be exact, raise. None: run as the trainer would, and say why. False: always run as
            the trainer would. In every case the LM head sees labelled positions only.
        obstacle: what the trainer knows against it, whatever the model.
    """

    def __init__(self, wanted: bool | None, obstacle: str | None = None) -> None:
        self.wanted = wanted
        self._obstacle = obstacle
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
        obstacle = self._obstacle or obstacles.of_model(model)
        if obstacle is not None and self.wanted:
            self._fall_back(obstacle)
        shares = obstacle is None and self.wanted is not False
        if shares:
            attention = inner.config._attn_implementation
            inner.set_attn_implementation(OURS.get(attention, attention))
        # A method, as TRL's, and around a function that is not bound: so the model can still be pickled and copied.
        function = getattr(inner.forward, "__func__", inner.forward)
        inner.forward = types.MethodType(self._around(function, obstacle), inner)
        return shares

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
        is_checked = False

        @functools.wraps(forward)
        def run(model: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal is_checked, obstacle
            if args or not kwargs.get("fused_lm_head") or kwargs.get("labels") is None:
                return forward(model, *args, **kwargs)
            if not self._num_pairs or self.wanted is False:
                return _over_labels(model, forward, kwargs)
            if obstacle is None and not is_checked:
                obstacle, is_checked = _probe(model, forward, kwargs["input_ids"].device), True
            layout, reason = self._lay_out(model, kwargs) if obstacle is None else (None, obstacle)
            if layout is None:
                self._fall_back(str(reason))
                return _over_labels(model, forward, kwargs)
            return _over_unique_tokens(model, forward, kwargs, layout)

        return run

    def _lay_out(self, model: Any, kwargs: dict[str, Any]) -> tuple[Layout | None, str | None]:
        """The layout of a call, or why there is none."""
        rows = {name: kwargs[name] for name in ("input_ids", "attention_mask", "labels")}
        reason = obstacles.of_call({name: value for name, value in kwargs.items() if name not in rows})
        if reason is not None:
            return None, reason
        layout, device = self._layout, rows["input_ids"].device
        if layout is None or layout.shape != tuple(rows["input_ids"].shape):
            try:
                layout = lay_out(**rows, num_pairs=self._num_pairs)
            except ValueError as error:
                return None, str(error)
        reason = obstacles.of_length(model.config, layout.longest)
        return (layout.to(device), None) if reason is None else (None, reason)

    def _fall_back(self, reason: str) -> None:
        if self.wanted:
            raise RecipeError(
                f"`shared_prefix: true` can't be had: {reason}. Leave it out, and prompts are run twice."
            )
        if reason not in self._said:
            self._said.add(reason)
            logger.warning("Prompts are not shared by their responses: %s.", reason)


def _over_unique_tokens(model: Any, forward: Forward, kwargs: dict[str, Any], layout: Layout) -> FusedCausalLMOutput:
    """A batch run as the row of its unique tokens."""
    replaced = ("input_ids", "attention_mask", "labels")
    inputs = {name: value for name, value in kwargs.items() if name not in replaced} | attention_inputs(layout)
    inputs["input_ids"] = layout.gather(kwargs["input_ids"])[None]
    inputs["position_ids"] = layout.position_ids
    with labelled_positions(model.base_model, layout.scored):
        output = forward(model, **inputs, shift_labels=layout.targets)
    return spread(output, layout.scatter)


def _over_labels(model: Any, forward: Forward, kwargs: dict[str, Any]) -> FusedCausalLMOutput:
    """A batch run as it is, of which the LM head sees labelled positions only."""
    labels = kwargs["labels"]
    rows, length = labels.shape
    slots = (labels[:, 1:] != -100).flatten().nonzero().squeeze(1)
    scored = slots + slots // max(length - 1, 1)  # results have a column less than rows
    inputs = {name: value for name, value in kwargs.items() if name != "labels"}
    with labelled_positions(model.base_model, scored):
        output = forward(model, **inputs, shift_labels=labels[:, 1:].flatten().index_select(0, slots)[None])

    def scatter(results: torch.Tensor) -> torch.Tensor:
        place = slots.to(results.device)
        return results.new_zeros(rows * (length - 1)).index_copy(0, place, results).view(rows, length - 1)

    return spread(output, scatter)


@torch.no_grad()
def _probe(model: Any, forward: Forward, device: torch.device) -> str | None:
    """Run a small pair both ways: why the results differ, or None. Models that no rule foresees are found out here."""
    ids = torch.arange(8, device=device) % model.config.get_text_config().vocab_size
    padding = ids[:1]
    input_ids = torch.stack([torch.cat([ids[:5], padding]), torch.cat([ids[:3], ids[5:]])])
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, -1] = 0
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    labels[:, :3] = -100
    kwargs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False, "fused_lm_head": True}
    expected = _over_labels(model, forward, kwargs | {"labels": labels}).log_probs
    try:
        layout = lay_out(input_ids, attention_mask, labels, num_pairs=1)
        found = _over_unique_tokens(model, forward, kwargs | {"labels": labels}, layout).log_probs
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        return f"{type(model).__name__} does not run over a row of unique tokens ({error})"
    in_autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if in_autocast else model.dtype
    difference = float((found - expected).abs().max())
    if difference <= NOISE_PER_TOKEN.get(dtype, NOISE_PER_TOKEN[torch.bfloat16]):
        return None
    return (
        f"{type(model).__name__} gives other log-probabilities over unique tokens (by {difference:.3g} nats a token)"
    )
