"""How much memory tensors take at once, counted storage by storage while operations run."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, for as long as something holds them.

    It sees what runs while it is entered, on tensors that hold numbers and on fake ones that only have a shape. What was
    made before, such as a model's weights, is not counted.

    Attributes:
        live: bytes that are held now.
        peak: the most that were held at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._bytes: dict[int, int] = {}

    def ignore(self, *tensors: torch.Tensor) -> None:
        """Leave out tensors that were there before, also where an operation returns one of them."""
        for tensor in tensors:
            self._note(tensor, 0)

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor, tensor.untyped_storage().nbytes())
        return result

    def _note(self, tensor: torch.Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        name = storage._cdata
        if name not in self._bytes:
            self._bytes[name] = size
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, name)

    def _free(self, name: int) -> None:
        self.live -= self._bytes.pop(name)
