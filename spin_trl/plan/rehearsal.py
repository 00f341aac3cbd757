"""A step of every kind that a run takes, played on tensors without numbers, to see how much memory it takes at its peak.

The model's own code runs, its backward pass and activation checkpointing included, over the layout that training has
([`models.forward.layout`]); only kernels don't. So what is found holds for any model that runs so, without a formula for
each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.utils._pytree import tree_leaves
from trl.kernels import ChunkedLogProbFunction

from ..errors import PlanError
from ..models.forward import obstacles
from ..models.forward.attention import attention_inputs
from ..models.forward.head import CPU_TILE
from ..models.forward.layout import Layout, lay_out
from .live import LiveTensors
from .model import PlannedModel

GPU_TILE = 32768
"""Columns of the vocabulary that TRL's head computes at once on a GPU."""

TILE_TOKENS = 4096
"""Tokens that it computes at once, at most."""

HEAD_OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
"""What DPOTrainer asks of the head."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class PairLengths:
    """Tokens of a pair: of its prompt, and of its responses (real, generated, and T-SPIN's proto response)."""

    prompt: int
    responses: tuple[int, ...]

    @property
    def unique(self) -> int:
        """Tokens that are run where the prompt is shared."""
        return self.prompt + sum(self.responses)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.prompt + max(self.responses)


@dataclass(frozen=True)
class Peak:
    """Bytes beside weights and what outlasts the step.

    Attributes:
        bytes: at the peak.
        head: of these, what the LM head holds by itself: a tile of the logits, or all of them.
        kept: what is left when the step is over: gradients, or a key-value cache.
    """

    bytes: int
    head: int = 0
    kept: int = 0


def shares_prompts(model: PlannedModel, wanted: bool | None, longest: int) -> bool:
    """Whether training runs over unique tokens: where that is exact, unless it is not wanted.

    Args:
        model: the model.
        wanted: `shared_prefix`.
        longest: tokens of the longest row.
    """
    if wanted is False:
        return False
    return obstacles.of_model(model.model) is None and obstacles.of_length(model.base.config, longest) is None


def training(
    model: PlannedModel,
    pairs: Sequence[PairLengths],
    *,
    shared: bool,
    checkpointing: bool,
    on_gpu: bool,
    keep_gradients: bool = True,
) -> Peak:
    """Forward and backward of a micro-batch.

    Args:
        model: the policy.
        pairs: of the micro-batch.
        shared: whether prompts are shared by their responses.
        checkpointing: whether activations are computed anew in the backward pass.
        on_gpu: whether TRL's head runs as it does there.
        keep_gradients: whether gradients stay, as in the first micro-batch of a step; else they are given away at once,
            to be added to what is there already.
    """
    batch = _batch(pairs, shared=shared)
    with _fake_tensors(model, checkpointing=checkpointing, backward=True) as live:
        with _autocast(model):
            scores, head = _log_probs(model, batch, on_gpu=on_gpu)
        with _gradients(model, kept=keep_gradients):
            scores.sum().backward()
        del scores
        return Peak(live.peak, head, live.live)


def scoring(model: PlannedModel, pairs: Sequence[PairLengths], *, shared: bool, on_gpu: bool) -> Peak:
    """A pass without gradients over a micro-batch: the opponent's, or evaluation's. Arguments as in [`training`]."""
    batch = _batch(pairs, shared=shared)
    with _fake_tensors(model) as live, torch.inference_mode(), _autocast(model):
        _, head = _log_probs(model, batch, on_gpu=on_gpu)
        return Peak(live.peak, head, 0)


def supervised(
    model: PlannedModel, rows: Sequence[int], *, checkpointing: bool, smoothing: bool, keep_gradients: bool = True
) -> Peak:
    """Forward and backward of a supervised micro-batch, all of whose logits exist: that is how Trainer trains.

    Args:
        model: what is trained.
        rows: tokens of every row.
        checkpointing: whether activations are computed anew in the backward pass.
        smoothing: whether labels are smoothed, for which Trainer takes the logarithms of all probabilities.
        keep_gradients: as in [`training`].
    """
    ids = torch.zeros(len(rows), max(rows), dtype=torch.long)
    with _fake_tensors(model, checkpointing=checkpointing, backward=True) as live:
        with _autocast(model):
            output = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False)
            loss = output.loss
            if smoothing:
                scores = -torch.nn.functional.log_softmax(output.logits[..., :-1, :], dim=-1)
                loss = scores.sum(dim=-1, dtype=torch.float32).mean() + scores[..., :1].mean()
                del scores
            del output
        with _gradients(model, kept=keep_gradients):
            loss.backward()
        return Peak(live.peak, 0, live.live)


def prefill(model: PlannedModel, num_prompts: int, length: int) -> Peak:
    """The first step of answering: prompts through the model, into the key-value cache.

    Args:
        model: what answers.
        num_prompts: answered together.
        length: tokens of the longest prompt.
    """
    ids = torch.zeros(num_prompts, length, dtype=torch.long)
    with _fake_tensors(model) as live, torch.inference_mode(), _autocast(model):
        output = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1)
        kept = sum(_bytes_of(tensor) for tensor in tree_leaves(_cached(output.past_key_values)))
        return Peak(live.peak, 0, kept)


def _cached(cache: Any) -> list[torch.Tensor]:
    """All tensors of a cache, whatever its layers hold."""
    found: list[torch.Tensor] = []
    for layer in getattr(cache, "layers", []):
        found += [value for value in vars(layer).values() if isinstance(value, torch.Tensor)]
    return found


def _bytes_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@dataclass(frozen=True)
class _Batch:
    """A micro-batch as it is handed to a model: its layout, or its rows; and what the head scores."""

    layout: Layout | None
    rows: dict[str, torch.Tensor]
    scored: torch.Tensor
    targets: torch.Tensor


def _batch(pairs: Sequence[PairLengths], *, shared: bool) -> _Batch:
    """The rows that a trainer makes of pairs: all real ones, all generated ones, and so on; padded on the right."""
    branches = len(pairs[0].responses)
    length = max(pair.longest for pair in pairs)
    columns = torch.arange(length)
    prompts = torch.tensor([pair.prompt for pair in pairs] * branches)[:, None]
    ends = prompts + torch.tensor([pair.responses[branch] for branch in range(branches) for pair in pairs])[:, None]
    branch = torch.arange(branches).repeat_interleave(len(pairs))[:, None]
    # Prompts are alike, responses differ from their first token on.
    ids = torch.where(columns < prompts, 0, 1 + branch)
    is_response = (columns >= prompts) & (columns < ends)
    rows = {"input_ids": ids, "attention_mask": (columns < ends).long()}
    if shared:
        layout = lay_out(**rows, labels=torch.where(is_response, ids, -100), num_pairs=len(pairs))
        return _Batch(layout, rows, layout.scored, layout.targets[0])
    scored = is_response.flatten().nonzero().squeeze(1) - 1
    return _Batch(None, rows, scored, ids.flatten()[scored + 1])


def _log_probs(model: PlannedModel, batch: _Batch, *, on_gpu: bool) -> tuple[torch.Tensor, int]:
    """Log-probabilities of all responses' tokens, as [`forward.head`] has them, and the bytes of the head's tile."""
    inputs: dict[str, Any] = dict(batch.rows)
    if batch.layout is not None:
        inputs = attention_inputs(batch.layout)
        inputs["input_ids"] = batch.layout.gather(batch.rows["input_ids"])[None]
        inputs["position_ids"] = batch.layout.position_ids
    states = model.base.base_model(**inputs, use_cache=False).last_hidden_state
    states = states.flatten(0, 1).index_select(0, batch.scored)
    head = model.base.get_output_embeddings()
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else states.dtype
    columns = GPU_TILE if on_gpu else CPU_TILE
    tile = min(len(states), TILE_TOKENS) * columns * dtype.itemsize
    if on_gpu:
        return _Head.apply(states, head.weight, dtype), tile
    # On a CPU the head is TRL's own; of a tile of logits it makes several more, in float32.
    scores = ChunkedLogProbFunction.apply(
        states, head.weight, head.bias, batch.targets, 1.0, columns, None, 1.0, HEAD_OUTPUTS
    )
    return scores[0], tile


class _Head(torch.autograd.Function):
    """TRL's fused head as far as memory goes on a GPU: one tile of logits, which is worked on in place.

    Its backward pass adds up the gradients of states and weights in float32.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        ctx.save_for_backward(states, weight)
        ctx.dtype = dtype
        _Head._tile(states, weight, dtype)
        return states.new_zeros(len(states), dtype=torch.float32)

    @staticmethod
    def _tile(states: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """What exists at once beside the results: a tile, and copies in the format that is computed in."""
        tokens = min(len(states), TILE_TOKENS)
        tile = states.new_empty(tokens, GPU_TILE, dtype=dtype)
        return tile, states[:tokens].to(dtype), weight[:GPU_TILE].to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        states, weight = ctx.saved_tensors
        by_states = torch.zeros_like(states, dtype=torch.float32)
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        held = _Head._tile(states, weight, ctx.dtype)
        del held
        return by_states.to(states.dtype), None if by_weight is None else by_weight.to(weight.dtype), None


@contextlib.contextmanager
def _fake_tensors(
    model: PlannedModel, *, checkpointing: bool = False, backward: bool = False
) -> Iterator[LiveTensors]:
    """Fake tensors, counted; the model in training mode, where there is a backward pass, and afterwards as it was.

    Raises:
        PlanError: the model's own code asks for numbers.
    """
    base = model.base
    model.model.train(backward)
    hook = None
    if checkpointing:
        base.activation_checkpointing_enable()
        if isinstance(model.model, PeftModel):
            hook = base.get_input_embeddings().register_forward_hook(_require_gradient)
    live = LiveTensors()
    live.ignore(*model.model.parameters(), *model.model.buffers())
    try:
        with model.fake, live:
            yield live
    except (RuntimeError, NotImplementedError) as error:
        raise PlanError(
            f"{type(base).__name__} can't be followed on tensors without numbers: {str(error).splitlines()[0]} "
            "It may be with `dtype: bfloat16`, or another `attn_implementation`."
        ) from error
    finally:
        if checkpointing:
            base.activation_checkpointing_disable()
        if hook is not None:
            hook.remove()
        for parameter in model.model.parameters():
            parameter.grad = None


@contextlib.contextmanager
def _gradients(model: PlannedModel, *, kept: bool) -> Iterator[None]:
    """Keep gradients, or give each away as soon as it is there."""
    given_away = [] if kept else model.trainable
    hooks = [parameter.register_post_accumulate_grad_hook(_give_away) for parameter in given_away]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _require_gradient(module: Any, inputs: Any, output: torch.Tensor) -> None:
    output.requires_grad_(True)


def _give_away(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _autocast(model: PlannedModel) -> contextlib.AbstractContextManager[Any]:
    dtype = _DTYPES.get(model.settings.precision)
    return torch.autocast("cpu", dtype) if dtype is not None else contextlib.nullcontext()
