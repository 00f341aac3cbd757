"""Plays every kind of step of a run on fake tensors, to find its peak memory.

The model's own code runs, including the backward pass and activation checkpointing, on the same layout as in training
([`models.forward.layout`]); only the kernels do not run. The result therefore holds for any model that runs on fake tensors,
without a formula per architecture. If a model has many identical layers, only a few are played ([`LiveTensors`]).
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trl.kernels import ChunkedLogProbFunction

from ..errors import PlanError, message_of
from ..models.forward.attention import attention_inputs
from ..models.forward.head import CPU_TILE
from ..models.forward.layout import Layout, lay_out
from ..models.loading import is_of_files
from ..quiet import quiet
from .model import PlannedModel, bytes_of
from .tokens import PairLengths

PLAYED_LAYERS = 4
"""Number of identical layers that are played: the first, the last, and two in between that represent all others."""

GPU_TILE = 32768
"""Columns of the vocabulary that TRL's head computes at once on a GPU."""

TILE_TOKENS = 4096
"""Maximum number of tokens that it computes at once."""

HEAD_OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
"""The outputs that DPOTrainer requests from the head."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Peak:
    """The peak memory of a step, excluding weights and other memory that outlasts it.

    Attributes:
        bytes: bytes at the peak.
        head: the part of these that the LM head holds: a tile of the logits, or all of them.
        kept: bytes that remain after the step: a key-value cache.
    """

    bytes: int
    head: int = 0
    kept: int = 0


def training(model: PlannedModel, pairs: Sequence[PairLengths], *, shared: bool, keep_gradients: bool = True) -> Peak:
    """Play the forward and backward pass of a micro-batch.

    Args:
        model: policy.
        pairs: pairs of the micro-batch.
        shared: whether responses share their prompt.
        keep_gradients: whether gradients are kept, as in the first micro-batch of a step; otherwise each is freed at once,
            as if added to an existing gradient.
    """
    batch = _Batch(pairs, shared=shared)
    with _played(model, backward=True, keep_gradients=keep_gradients) as live:
        with _autocast(model):
            scores, head = _log_probs(model, batch)
        scores.sum().backward()
        del scores
        return Peak(live.peak, head)


def scoring(model: PlannedModel, pairs: Sequence[PairLengths], *, shared: bool) -> Peak:
    """Play a pass without gradients over a micro-batch, as by the opponent or in evaluation. Arguments: see [`training`]."""
    batch = _Batch(pairs, shared=shared)
    with _played(model) as live, torch.inference_mode(), _autocast(model):
        _, head = _log_probs(model, batch)
        return Peak(live.peak, head)


def supervised(
    model: PlannedModel, rows: Sequence[PairLengths], *, smoothing: bool, keep_gradients: bool = True
) -> Peak:
    """Play the forward and backward pass of a micro-batch of SFTTrainer, whose head computes the logits in tiles.

    Args:
        model: model to train.
        rows: prompts and real responses of the micro-batch.
        smoothing: whether labels are smoothed, for which SFTTrainer computes all logits and log-probabilities.
        keep_gradients: as in [`training`].
    """
    batch = _Batch([PairLengths(row.prompt, row.responses[:1]) for row in rows], shared=False)
    with _played(model, backward=True, keep_gradients=keep_gradients) as live:
        with _autocast(model):
            if smoothing:
                scores = -torch.nn.functional.log_softmax(
                    model.model(**batch.rows, use_cache=False).logits[..., :-1, :], dim=-1
                )
                loss, head = scores.sum(dim=-1, dtype=torch.float32).mean() + scores[..., :1].mean(), 0
            else:
                scores, head = _log_probs(model, batch)
                loss = scores.sum()
            del scores
        loss.backward()
        return Peak(live.peak, head)


def prefill(model: PlannedModel, num_prompts: int, length: int) -> Peak:
    """Play the first step of generation, which processes the prompts and fills the key-value cache.

    Args:
        model: generating model.
        num_prompts: number of prompts in the batch.
        length: number of tokens of the longest prompt.
    """
    ids = torch.zeros(num_prompts, length, dtype=torch.long)
    with _played(model) as live, torch.inference_mode(), _autocast(model):
        output = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1)
        layers = getattr(output.past_key_values, "layers", [])[: PLAYED_LAYERS if live.left_out else None]
        kept = sum(bytes_of(value) for layer in layers for value in vars(layer).values() if torch.is_tensor(value))
        return Peak(live.peak, 0, kept + kept * live.left_out // PLAYED_LAYERS)


class _Batch:
    """The rows that a trainer builds from pairs: all real ones, then all generated ones, and so on; padded on the right.

    Attributes:
        rows: model inputs.
        layout: layout of the unique tokens if prompts are shared, else None.
        scored, targets: positions at which the head scores, and the target tokens.
    """

    def __init__(self, pairs: Sequence[PairLengths], *, shared: bool) -> None:
        branches = len(pairs[0].responses)
        columns = torch.arange(max(pair.longest for pair in pairs))
        prompts = torch.tensor([pair.prompt for pair in pairs] * branches)[:, None]
        ends = (
            prompts + torch.tensor([pair.responses[branch] for branch in range(branches) for pair in pairs])[:, None]
        )
        branch = torch.arange(branches).repeat_interleave(len(pairs))[:, None]
        # Prompts are identical; responses differ from their first token on.
        ids = torch.where(columns < prompts, 0, 1 + branch)
        is_response = (columns >= prompts) & (columns < ends)
        self.rows = {"input_ids": ids, "attention_mask": (columns < ends).long()}
        self.layout: Layout | None = None
        if shared:
            labels = torch.where(is_response, ids, -100)
            self.layout = lay_out(**self.rows, labels=labels, num_pairs=len(pairs))
            self.scored, self.targets = self.layout.scored, self.layout.targets[0]
        else:
            self.scored = is_response.flatten().nonzero().squeeze(1) - 1
            self.targets = ids.flatten()[self.scored + 1]


def _log_probs(model: PlannedModel, batch: _Batch) -> tuple[torch.Tensor, int]:
    """Return log-probabilities of all response tokens, computed as in [`forward.head`], and the bytes of the head's tile."""
    inputs: dict[str, Any] = dict(batch.rows)
    if batch.layout is not None:
        inputs = attention_inputs(batch.layout)
        inputs["input_ids"] = batch.layout.gather(batch.rows["input_ids"])[None]
        inputs["position_ids"] = batch.layout.position_ids
    states = model.base.base_model(**inputs, use_cache=False).last_hidden_state
    states = states.flatten(0, 1).index_select(0, batch.scored)
    head = model.base.get_output_embeddings()
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else states.dtype
    columns = GPU_TILE if model.settings.on_gpu else CPU_TILE
    tile = min(len(states), TILE_TOKENS) * columns * dtype.itemsize
    if model.settings.on_gpu:
        return _Head.apply(states, head.weight, dtype), tile
    # On a CPU the head is TRL's own, which makes several float32 copies of a tile of logits.
    scores = ChunkedLogProbFunction.apply(
        states, head.weight, head.bias, batch.targets, 1.0, columns, None, 1.0, HEAD_OUTPUTS
    )
    return scores[0], tile


class _Head(torch.autograd.Function):
    """TRL's fused head on a GPU as far as memory goes: one tile of logits, modified in place.

    Its backward pass accumulates the gradients of states and weights in float32.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        ctx.save_for_backward(states, weight)
        ctx.dtype = dtype
        _Head._tile(states, weight, dtype)
        return states.new_zeros(len(states), dtype=torch.float32)

    @staticmethod
    def _tile(states: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """Allocate the temporaries: a tile, and copies of the inputs in the compute dtype."""
        tokens = min(len(states), TILE_TOKENS)
        tile = states.new_empty(tokens, GPU_TILE, dtype=dtype)
        return tile, states[:tokens].to(dtype), weight[:GPU_TILE].to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        states, weight = ctx.saved_tensors
        by_states = torch.zeros_like(states, dtype=torch.float32)
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        _Head._tile(states, weight, ctx.dtype)
        return by_states.to(states.dtype), None if by_weight is None else by_weight.to(weight.dtype), None


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all storages that operations allocate, for as long as they are referenced.

    It sees every operation while the mode is active, on real tensors and on fake ones that only have a shape. Tensors that
    existed before, such as a model's weights, are not counted.

    If a model runs with only its first few layers, the memory that one of them leaves behind (activations, a cache,
    gradients) is counted once more for each omitted layer. This is exact: identical layers leave the same memory behind, so
    the peak is at the first or the last of them, and both are played.

    Args:
        held: tensors that existed before, which are not counted if an operation returns one of them.
        left_out: number of layers that are not played.

    Attributes:
        live: bytes currently held.
        peak: maximum number of bytes held at once.
    """

    def __init__(self, held: Iterable[torch.Tensor], left_out: int) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.left_out = left_out
        self._turn = 0  # of layers 1, 2, 3, 4 forward, then 5, 6, 7: the third, second and first one backward
        self._storages: dict[int, tuple[int, int]] = {}  # bytes, and the turn of allocation
        for tensor in held:
            self._note(tensor, 0)

    def enter_layer(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Pre-forward hook of every layer; a hook on the layer's input tells when the backward pass leaves it."""
        if self._turn >= PLAYED_LAYERS:  # recomputed for its activations
            return
        states = args[0] if args else kwargs["hidden_states"]
        if self._turn and states.requires_grad:
            states.register_hook(lambda gradient: self._next_turn())
        self._next_turn()

    def _next_turn(self) -> None:
        self._turn += 1
        if self._turn in (PLAYED_LAYERS, 2 * PLAYED_LAYERS - 1):
            # Tensors from the last turn may still be passed on and freed; those a turn older that are still alive stay.
            for name, (size, turn) in list(self._storages.items()):
                if turn == self._turn - 2:
                    self._storages[name] = size * (1 + self.left_out), turn
                    self._add(size * self.left_out)

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in (result,) if isinstance(result, torch.Tensor) else tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor, tensor.untyped_storage().nbytes())
        return result

    def _note(self, tensor: torch.Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        name = storage._cdata
        if name not in self._storages:
            self._storages[name] = size, self._turn
            self._add(size)
            weakref.finalize(storage, self._free, name)

    def _add(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)

    def _free(self, name: int) -> None:
        self.live -= self._storages.pop(name)[0]


@contextlib.contextmanager
def _played(model: PlannedModel, *, backward: bool = False, keep_gradients: bool = True) -> Iterator[LiveTensors]:
    """Count memory on fake tensors, with the model in training mode for a backward pass; restore the model afterwards.

    Raises:
        PlanError: if the model's own code needs tensor values, or its configuration has values that it can't run with.
    """
    base = model.base
    model.model.train(backward)
    with contextlib.ExitStack() as after:
        layers = model.alike_layers
        every = layers._modules
        left_out = max(len(every) - PLAYED_LAYERS, 0)
        if left_out:
            after.callback(setattr, layers, "_modules", every)
            layers._modules = dict(list(every.items())[:PLAYED_LAYERS])
        live = LiveTensors([*model.model.parameters(), *model.model.buffers()], left_out)
        for layer in layers if left_out else ():
            after.enter_context(layer.register_forward_pre_hook(live.enter_layer, with_kwargs=True))
        for parameter in () if keep_gradients else model.trainable:
            after.enter_context(parameter.register_post_accumulate_grad_hook(_give_away))
        if backward and model.settings.checkpointing:
            base.activation_checkpointing_enable()
            after.callback(base.activation_checkpointing_disable)
            if isinstance(model.model, PeftModel):
                after.enter_context(
                    base.get_input_embeddings().register_forward_hook(lambda *call: call[-1].requires_grad_())
                )
        try:
            # torch also logs the traceback of a failure that is reported here.
            with model.fake, live, quiet("torch._subclasses.fake_tensor", level=logging.CRITICAL):
                yield live
        except Exception as error:
            if not is_of_files(error):
                raise
            raise PlanError(
                f"{type(base).__name__} can't run on fake tensors ({type(error).__name__}: {message_of(error)}). It may "
                "work with `dtype: bfloat16`, or another `attn_implementation`, if the model's config.json is right."
            ) from error
        finally:
            for parameter in model.model.parameters():
                parameter.grad = None


def _give_away(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _autocast(model: PlannedModel) -> contextlib.AbstractContextManager[Any]:
    precision = model.settings.precision
    return torch.autocast("cpu", _DTYPES[precision]) if precision in _DTYPES else contextlib.nullcontext()
