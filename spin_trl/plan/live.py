"""How much memory tensors take at once, counted storage by storage while operations run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PLAYED_LAYERS = 4
"""Layers that are run of many that are alike: a first, a last, and two between them, of which one stands for all others."""


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, for as long as something holds them.

    It sees what runs while it is entered, on tensors that hold numbers and on fake ones that only have a shape. What was
    made before, such as a model's weights, is not counted.

    Where a model runs with its first few layers, what one of them leaves behind (activations, a cache, gradients) is
    counted once more for each of those that were left out. That is exact: layers that are alike leave the same behind, so
    the most is held at the first or at the last of them, and these are run.

    Args:
        held: tensors that were there before, which are not counted where an operation returns one of them.
        left_out: layers that do not run.

    Attributes:
        live: bytes that are held now.
        peak: the most that were held at once.
    """

    def __init__(self, held: Iterable[torch.Tensor], left_out: int = 0) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.left_out = left_out
        self._layer = 0  # that runs: 1, 2, 3, 4 forward, then 5, 6, 7 backward from the third one on
        self._storages: dict[int, tuple[int, int]] = {}  # bytes, and the layer that made them
        for tensor in held:
            self._note(tensor, 0)

    def enter_layer(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Hook of every layer, before it runs. In the backward pass a hook of its input tells that its turn is over."""
        if self._layer >= PLAYED_LAYERS:  # once more, for its activations
            return
        states = args[0] if args else kwargs["hidden_states"]
        if self._layer and states.requires_grad:
            states.register_hook(lambda gradient: self._next_layer())
        self._next_layer()

    def _next_layer(self) -> None:
        self._layer += 1
        if self._layer in (PLAYED_LAYERS, 2 * PLAYED_LAYERS - 1):
            for name, (size, layer) in list(self._storages.items()):
                if layer == self._layer - 2:
                    self._storages[name] = size * (1 + self.left_out), layer
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
            self._storages[name] = size, self._layer
            self._add(size)
            weakref.finalize(storage, self._free, name)

    def _add(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)

    def _free(self, name: int) -> None:
        self.live -= self._storages.pop(name)[0]
