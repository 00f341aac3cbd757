"""What a model is, by its weights alone: a digest that neither loading and saving nor a new adapter changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper

from ..files import DEFINITION, numbered, parts_digest, short_digest

FROZEN_ADAPTER = "ref"
"""TRL's name of the adapter that stands in for the reference model: in self-play, the opponent."""


def digest(model: torch.nn.Module, *, adapter_is_new: bool = False, definition: int = DEFINITION) -> str:
    """Hash of a model's weights, the same in whichever floating-point format they were loaded.

    Args:
        model: a model, or a PEFT model around one. The frozen adapter is left out.
        adapter_is_new: leave out the trainable adapter, too: a new one changes nothing yet. The digest then is that of the
            base model on its own.
        definition: by which the digest is computed. Version 0.1.0 computed definition 1, which takes part of some adapters
            for weights of the base model.

    Returns:
        16 hexadecimal digits, behind the definition's number (see [`files.numbered`]).
    """
    if definition == 1 and not adapter_is_new:
        played = {name: t for name, t in model.state_dict().items() if f".{FROZEN_ADAPTER}." not in name}
        return parts_digest(_names_and_bytes((_unprefixed(name), tensor) for name, tensor in played.items()))
    base = parts_digest(_names_and_bytes(base_tensors(model).items()))
    if definition == 1:
        return base
    adapters = {} if adapter_is_new else adapter_tensors(model)
    found = parts_digest(_names_and_bytes(adapters.items())) if adapters else ""
    return numbered(definition, short_digest(f"{base}{found}"))


def base_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model without its adapters, by the names that they have there.

    What PEFT has put around a layer is told by PEFT's own classes, not by names, so it is left out whatever the method:
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


def adapter_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model's adapters, the frozen one excepted, by adapter and name; empty without adapters."""
    if not isinstance(model, PeftModel):
        return {}
    return {
        f"{adapter}/{name}": tensor
        for adapter in model.peft_config
        if adapter != FROZEN_ADAPTER
        for name, tensor in get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False).items()
    }


def _inner_name(module: torch.nn.Module) -> str | None:
    """Under which name a layer of PEFT holds what it is wrapped around, or None for other layers."""
    if isinstance(module, AuxiliaryTrainingWrapper):
        # The wrapper of single tokens has put a tuner layer of its own around the embeddings.
        return next(name for name in ("token_adapter", "original_module") if name in dict(module.named_children()))
    return "base_layer" if isinstance(module, BaseTunerLayer) and hasattr(module, "base_layer") else None


def _without_wrappers(name: str, wrapped: Mapping[str, str]) -> str | None:
    """The name of a weight without what PEFT has put around its layer; None: it belongs to what was put there."""
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
            # bfloat16 is the coarsest format that weights are loaded in; the sign of zero means nothing.
            tensor = (tensor.to(torch.bfloat16) + 0.0).view(torch.int16)
        yield name
        yield tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _unprefixed(name: str) -> str:
    name = name.removeprefix("base_model.model.")
    # Adapters of fused experts are wrapped in one another: only `.base_layer` tells them apart.
    return name if "lora_" in name else name.replace(".base_layer", "")
