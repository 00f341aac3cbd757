"""Identify a model by its weights: a digest that does not change with loading, saving or a new adapter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper

from ..files import DEFINITION, numbered, parts_digest, short_digest

FROZEN_ADAPTER = "ref"
"""TRL's name for the adapter that acts as the reference model, which in self-play is the opponent."""

START_ADAPTER = "start"
"""Name of a second frozen adapter: that of the start, if it is mixed into the opponent (`opponent_mix`)."""

FROZEN_ADAPTERS = (FROZEN_ADAPTER, START_ADAPTER)
"""Adapters that are part of no policy: they are neither saved nor part of its digest."""


def digest(
    model: torch.nn.Module, *, adapter_is_new: bool = False, definition: int = DEFINITION, of_start: bool = False
) -> str:
    """Return a hash of a model's weights that does not depend on the floating-point format they were loaded in.

    Args:
        model: model, or a PEFT model around one. Frozen adapters are ignored.
        adapter_is_new: also ignore the trainable adapter, since a new one changes nothing yet. The digest is then that of
            the base model alone.
        definition: definition of the digest. Version 0.1.0 used definition 1, which takes part of some adapters for weights
            of the base model.
        of_start: return the digest of the start instead: of the model with the adapter `START_ADAPTER`, or with none if
            it has no such adapter.

    Returns:
        16 hexadecimal digits, after the definition's number (see [`files.numbered`]).
    """
    if definition == 1 and not adapter_is_new:
        frozen = [f".{adapter}." for adapter in FROZEN_ADAPTERS]
        played = {name: t for name, t in model.state_dict().items() if not any(part in name for part in frozen)}
        return parts_digest(_names_and_bytes((_unprefixed(name), tensor) for name, tensor in played.items()))
    base = parts_digest(_names_and_bytes(base_tensors(model).items()))
    if definition == 1:
        return base
    adapters = {} if adapter_is_new else adapter_tensors(model, of_start=of_start)
    found = parts_digest(_names_and_bytes(adapters.items())) if adapters else ""
    return numbered(definition, short_digest(f"{base}{found}"))


def base_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a model without its adapters, by their names in that model.

    The parts that PEFT has added are recognised by PEFT's own classes, not by names, so they are excluded for every method:
    low-rank matrices, vectors, copies of whole modules (`modules_to_save`) or of rows of the embeddings.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    wrapped = {name: inside for name, module in base.named_modules() if (inside := _inner_name(module)) is not None}
    found = {}
    for name, tensor in base.state_dict().items():
        plain = _without_wrappers(name, wrapped)
        if plain is not None:
            found[plain] = tensor
    return found


def adapter_tensors(model: torch.nn.Module, *, of_start: bool = False) -> dict[str, torch.Tensor]:
    """Return the weights of a model's adapters except frozen ones, by adapter and name; empty without adapters.

    Args:
        model: model, or a PEFT model around one.
        of_start: return those of the start's adapter instead, under the name of the trained one.
    """
    if not isinstance(model, PeftModel):
        return {}
    own = {adapter: adapter for adapter in model.peft_config if adapter not in FROZEN_ADAPTERS}
    start = {START_ADAPTER: "default"} if START_ADAPTER in model.peft_config else {}
    return {
        f"{shown}/{name}": tensor
        for adapter, shown in (start if of_start else own).items()
        for name, tensor in get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False).items()
    }


def _inner_name(module: torch.nn.Module) -> str | None:
    """Return the name under which a PEFT layer holds the layer that it wraps; None for other layers."""
    if isinstance(module, AuxiliaryTrainingWrapper):
        # The wrapper of single tokens has put its own tuner layer around the embeddings.
        return next(name for name in ("token_adapter", "original_module") if name in dict(module.named_children()))
    return "base_layer" if isinstance(module, BaseTunerLayer) and hasattr(module, "base_layer") else None


def _without_wrappers(name: str, wrapped: Mapping[str, str]) -> str | None:
    """Return a weight's name without PEFT's wrappers around its layer; None if the weight belongs to a wrapper."""
    kept: list[str] = []
    path = ""
    expected: str | None = None
    for part in name.split("."):
        if expected is None:
            kept.append(part)
        elif part != expected:
            return None
        path = f"{path}.{part}" if path else part
        expected = wrapped.get(path)
    return ".".join(kept) if expected is None else None


def _names_and_bytes(named: Iterable[tuple[str, torch.Tensor]]) -> Iterator[str | bytes]:
    for name, value in sorted(named, key=lambda one: one[0]):
        tensor = value.detach()
        if tensor.is_floating_point():
            # bfloat16 is the coarsest format that weights are loaded in; the sign of zero is meaningless.
            tensor = (tensor.to(torch.bfloat16) + 0.0).view(torch.int16)
        yield name
        yield tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _unprefixed(name: str) -> str:
    name = name.removeprefix("base_model.model.")
    # Adapters of fused experts wrap one another: only `.base_layer` tells them apart.
    return name if "lora_" in name else name.replace(".base_layer", "")
