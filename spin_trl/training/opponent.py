"""The opponent is the policy's starting point: keep that true with LoRA, and detect when it is not."""

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
    """Raise unless both log-probabilities of each response agree up to the noise of their dtype.

    Args:
        policy_logps: log-probabilities under the policy, shape (n,), in nats, summed over a response's tokens.
        opponent_logps: the same under the opponent, shape (n,).
        num_tokens: number of tokens of each response, shape (n,).
        dtype: dtype that the model computes in.

    Raises:
        OpponentError: if a log-ratio is not 0. The message gives both numbers and the likely cause.
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
        "Likely causes: dropout that is still active, weights that were changed after the trainer was created, a new "
        "adapter that does not start at zero, or an adapter and its frozen copy in different dtypes. "
        "`check_opponent: false` trains anyway."
    )


def drop_frozen_adapter(model: PeftModel) -> None:
    """Remove the frozen adapter that an earlier trainer left in a model, so that the next trainer can add its own."""
    if FROZEN_ADAPTER in model.peft_config:
        model.set_adapter("default")
        model.delete_adapter(FROZEN_ADAPTER)


def freeze_adapter(model: PeftModel) -> None:
    """Make the current trainable adapter the opponent: add a frozen copy of it, in the same dtype."""
    drop_frozen_adapter(model)
    with initialised_plainly(model):
        model.add_adapter(FROZEN_ADAPTER, copy.deepcopy(model.peft_config["default"]))
    model.set_adapter("default")
    align_frozen_adapter(model)


def initialised_plainly(model: Any) -> contextlib.AbstractContextManager[object]:
    """Allow further adapters to be added to a model without changing its base weights.

    When PEFT loads an adapter that was initialised by PiSSA or OLoRA, it subtracts the adapter's initial matrices from the
    base weights. A copy of the adapter with the same configuration would subtract different ones.
    """
    config = model.peft_config.get("default") if isinstance(model, PeftModel) else None
    if not isinstance(config, LoraConfig) or not isinstance(config.init_lora_weights, str):
        return contextlib.nullcontext()
    return mock.patch.object(config, "init_lora_weights", True)


def align_frozen_adapter(model: PeftModel) -> None:
    """Set the frozen adapter to exactly the trainable one's values, dtype included.

    TRL copies what PEFT keeps in modules, but neither the adapters of embeddings, which are plain parameters, nor buffers.
    It also rounds the trainable adapter of a quantised model to bfloat16 but leaves the frozen one in float32, so the
    log-ratios of the first step would not be zero.
    """
    for trained, frozen in _both_adapters(model):
        frozen.data = trained.data.clone()
        frozen.requires_grad_(False)


def _both_adapters(model: PeftModel) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield every tensor of the trainable adapter with the frozen one's. PEFT keeps adapters in dictionaries by name."""
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
    """Make a PEFT model compute as the opponent: with the frozen adapter, or with no adapter if there is none."""
    if not isinstance(model, PeftModel):
        return contextlib.nullcontext()
    frozen = FROZEN_ADAPTER if FROZEN_ADAPTER in model.peft_config else None
    adapter: contextlib.AbstractContextManager[object] = use_adapter(model, frozen)
    return adapter


def trainable_adapters(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return copies of the trained adapter's weights by name: TRL's constructor rounds them on quantised weights."""
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    return {name: weight.detach().clone() for name, weight in trained}


def fit_adapters(model: PeftModel, autocast: bool, unrounded: Mapping[str, torch.Tensor]) -> None:
    """Convert the trainable adapter to a dtype that it can be trained in.

    On quantised weights TRL converts adapters to bfloat16. Self-play's steps are too small for that: at a learning rate of
    1e-5 an update is a tenth of the distance between two bfloat16 numbers of a weight's size, so it is lost. And the
    gradient scaler of float16 rejects bfloat16 gradients.

    Args:
        model: model as TRL's constructor left it.
        autocast: whether training uses mixed precision. Without it, modules that are trained as a whole
            (`modules_to_save`) keep the dtype of the modules they replace.
        unrounded: the trainable adapter before that constructor ran, by name; empty if there was none.
    """
    whole = _whole_modules(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype == torch.bfloat16:
            original = whole.get(id(parameter))
            # An untrained copy of a module equals its original, but TRL has rounded the copy along with the adapters.
            exact = unrounded.get(name, parameter.data if original is None or unrounded else original.data)
            parameter.data = exact.to(torch.float32 if autocast or original is None else original.dtype, copy=True)


def _whole_modules(model: PeftModel) -> dict[int, torch.nn.Parameter]:
    """Map the parameters of modules that are trained as a whole, by identity, to the originals they were copied from."""
    found = {}
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper) and "default" in module.modules_to_save:
            originals = dict(module.original_module.named_parameters())
            for name, parameter in module.modules_to_save["default"].named_parameters():
                if name in originals and originals[name].shape == parameter.shape:
                    found[id(parameter)] = originals[name]
    return found


def without_frozen_adapter(model: torch.nn.Module) -> contextlib.AbstractContextManager[object]:
    """Make `save_pretrained` write only the other adapters: the frozen one is neither saved nor pushed."""
    if not isinstance(model, PeftModel) or FROZEN_ADAPTER not in model.peft_config:
        return contextlib.nullcontext()
    others = [name for name in model.peft_config if name != FROZEN_ADAPTER]
    # Trainer calls the method without naming adapters.
    selecting = functools.partial(model.save_pretrained, selected_adapters=others)
    return mock.patch.object(model, "save_pretrained", selecting)
