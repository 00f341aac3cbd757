"""The opponent is the policy's starting point: what keeps that true with LoRA, and what notices when it is not."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, PeftModel
from peft.tuners._buffer_dict import BufferDict
from peft.utils.other import ModulesToSaveWrapper
from trl.trainer.utils import use_adapter

from ..counts import counted
from ..errors import OpponentError
from ..models.digest import FROZEN_ADAPTER
from ..models.forward.obstacles import NOISE_PER_TOKEN


def check_starting_point(
    policy_logps: torch.Tensor, opponent_logps: torch.Tensor, num_tokens: torch.Tensor, dtype: torch.dtype
) -> None:
    """Raise unless two log-probabilities agree, for each response, up to the noise of their format.

    Args:
        policy_logps: under the policy, shape (n,), in nats, summed over a response's tokens.
        opponent_logps: under the opponent, shape (n,).
        num_tokens: tokens of each response, shape (n,).
        dtype: in which the model computes.

    Raises:
        OpponentError: a log-ratio is not 0. The message has both numbers and the likely cause.
    """
    tolerance = NOISE_PER_TOKEN.get(dtype, NOISE_PER_TOKEN[torch.bfloat16]) * num_tokens.clamp(min=1).sqrt()
    policy_logps = policy_logps.detach()
    excess = (policy_logps.float() - opponent_logps.float()).abs() - tolerance.to(policy_logps.device)
    worst = int(excess.nan_to_num(nan=torch.inf).argmax())
    if excess[worst] <= 0:
        return
    raise OpponentError(
        "The policy does not start this iteration at its opponent: at the first step, a response of "
        f"{counted(int(num_tokens[worst]), 'token')} has log-probability {float(policy_logps[worst]):.4f} under the policy "
        f"and {float(opponent_logps[worst]):.4f} under the opponent; they must be equal up to "
        f"{float(tolerance[worst]):.4f}. "
        "Likely causes: dropout that is still active, weights that were changed after the trainer was made, a new adapter "
        "that does not start at zero, or an adapter and its frozen copy in different dtypes. `check_opponent: false` trains "
        "all the same."
    )


def drop_frozen_adapter(model: PeftModel) -> None:
    """Remove the frozen adapter that an earlier trainer left in a model; otherwise the next one can't add its own."""
    if FROZEN_ADAPTER in model.peft_config:
        model.set_adapter("default")
        model.delete_adapter(FROZEN_ADAPTER)


def freeze_adapter(model: PeftModel) -> None:
    """Make the trainable adapter, as it is now, the opponent: copy it, frozen, in the same dtype."""
    drop_frozen_adapter(model)
    with initialised_plainly(model):
        model.add_adapter(FROZEN_ADAPTER, copy.deepcopy(model.peft_config["default"]))
    model.set_adapter("default")
    align_frozen_adapter(model)


def initialised_plainly(model: Any) -> contextlib.AbstractContextManager[object]:
    """Let further adapters be added to a model without a change of its base.

    An adapter that was initialised by PiSSA or OLoRA has its first matrices taken out of the base's weights when it is
    loaded. A copy of the adapter with the same configuration would take out others.
    """
    config = model.peft_config.get("default") if isinstance(model, PeftModel) else None
    if not isinstance(config, LoraConfig) or not isinstance(config.init_lora_weights, str):
        return contextlib.nullcontext()
    return mock.patch.object(config, "init_lora_weights", True)


def align_frozen_adapter(model: PeftModel) -> None:
    """Give the frozen adapter exactly the trainable one's numbers, dtype included.

    TRL copies what PEFT keeps in modules, but neither adapters of embeddings, which are plain parameters, nor buffers. And
    it rounds the trainable adapter of a quantised model to bfloat16 and leaves the frozen one in float32; the log-ratios of
    the first step would then not be zero.
    """
    for trained, frozen in _both_adapters(model):
        frozen.data = trained.data.clone()
        frozen.requires_grad_(False)


def _both_adapters(model: PeftModel) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every tensor of the trainable adapter, and the frozen one's. PEFT keeps adapters in dictionaries, by their names."""
    for module in model.modules():
        if not isinstance(module, torch.nn.ModuleDict | torch.nn.ParameterDict | BufferDict):
            continue
        if FROZEN_ADAPTER in module and "default" in module:
            trained = _tensors_of(module["default"])
            yield from ((trained[name], tensor) for name, tensor in _tensors_of(module[FROZEN_ADAPTER]).items())


def _tensors_of(part: torch.nn.Module | torch.Tensor) -> dict[str, torch.Tensor]:
    if isinstance(part, torch.Tensor):
        return {"": part}
    return dict([*part.named_parameters(), *part.named_buffers()])


def in_place_of_the_policy(model: torch.nn.Module) -> contextlib.AbstractContextManager[object]:
    """Let a PEFT model compute as the opponent: with the frozen adapter, or without one if there is none."""
    if not isinstance(model, PeftModel):
        return contextlib.nullcontext()
    frozen = FROZEN_ADAPTER if FROZEN_ADAPTER in model.peft_config else None
    adapter: contextlib.AbstractContextManager[object] = use_adapter(model, frozen)
    return adapter


def trainable_adapters(model: PeftModel) -> dict[str, torch.Tensor]:
    """Copies of the adapter that is trained, by name: TRL's constructor rounds those on quantised weights to bfloat16."""
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    return {name: weight.detach().clone() for name, weight in trained}


def fit_adapters(model: PeftModel, autocast: bool, unrounded: Mapping[str, torch.Tensor]) -> None:
    """Give the trainable adapter a dtype that training takes.

    On quantised weights TRL makes adapters bfloat16. Self-play's steps are too small for that: at a learning rate of 1e-5 an
    update is a tenth of the distance between two bfloat16 numbers of a weight's size, and is lost. And the scaler of float16
    gradients refuses them.

    Args:
        model: as TRL's constructor leaves it.
        autocast: whether training computes in mixed precision. Without it, whole modules that are trained
            (`modules_to_save`) stay in the dtype of their neighbours.
        unrounded: the trainable adapter as it was before that constructor, by name, if it was there.
    """
    whole = _whole_modules(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype == torch.bfloat16:
            original = whole.get(id(parameter))
            # What has not been trained yet is its original, which TRL has rounded with the adapters.
            exact = unrounded.get(name, parameter.data if original is None or unrounded else original.data)
            parameter.data = exact.to(torch.float32 if autocast or original is None else original.dtype, copy=True)


def _whole_modules(model: PeftModel) -> dict[int, torch.nn.Parameter]:
    """The original of every parameter of the modules that are trained as a whole, by the copy's identity."""
    found = {}
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper) and "default" in module.modules_to_save:
            originals = dict(module.original_module.named_parameters())
            for name, parameter in module.modules_to_save["default"].named_parameters():
                if name in originals and originals[name].shape == parameter.shape:
                    found[id(parameter)] = originals[name]
    return found


def without_frozen_adapter(model: torch.nn.Module) -> contextlib.AbstractContextManager[object]:
    """Let `save_pretrained` write the other adapters only: the frozen one is neither saved nor pushed."""
    if not isinstance(model, PeftModel) or FROZEN_ADAPTER not in model.peft_config:
        return contextlib.nullcontext()
    others = [name for name in model.peft_config if name != FROZEN_ADAPTER]
    # Trainer calls the method, and names no adapters.
    selecting = functools.partial(model.save_pretrained, selected_adapters=others)
    return mock.patch.object(model, "save_pretrained", selecting)
