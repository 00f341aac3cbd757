"""Describe which weights of a model are not finite, for messages when its forward returns NaN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.tensor import DTensor

from ..counts import counted

MOST_NAMED = 3
"""Most parameters that a message names; the others are counted."""


def non_finite_parameters(model: torch.nn.Module) -> list[str]:
    """Return the names of the parameters that hold NaN or infinity; for sharded ones, as far as this process holds them."""
    found = []
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        local = values.to_local() if isinstance(values, DTensor) else values
        # Quantised weights are integers, or in one-byte formats for which torch has no isfinite.
        if local.is_floating_point() and local.dtype.itemsize > 1 and not local.isfinite().all():
            found.append(name)
    return found


def non_finite_in_words(model: torch.nn.Module) -> str | None:
    """Describe the weights that hold NaN or infinity, with their file if loaded from a folder; None if there are none."""
    names = non_finite_parameters(model)
    if not names:
        return None
    folder = str(getattr(getattr(model, "config", None), "_name_or_path", ""))
    files = _files_with(Path(folder), names[:MOST_NAMED]) if folder and Path(folder).is_dir() else {}
    named = [f"`{name}`" + (f" ({files[name]})" if name in files else "") for name in names[:MOST_NAMED]]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    of_model = f" of {folder}" if folder else ""
    return f"{counted(len(names), 'parameter')}{of_model}: {', '.join(named)}{more}"


def _files_with(folder: Path, names: list[str]) -> Mapping[str, str]:
    """Return the file of a folder that holds each parameter, where one matches: wrappers prefix the names."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                stored = set(file.keys())
        except (OSError, SafetensorError):
            continue
        for name in names:
            if any(name == one or name.endswith(f".{one}") for one in stored):
                found[name] = path.name
    return found
