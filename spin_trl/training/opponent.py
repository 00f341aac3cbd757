"""The opponent is the policy's starting point: keep that true with LoRA, and detect when it is not."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, PeftModel
from peft.tuners._buffer_dict import BufferDict
from peft.utils.other import ModulesToSaveWrapper
from trl.trainer.utils import use_adapter

from ..counts import counted
from ..errors import OpponentError
from ..models.adapters import load_adapter_config, local_folder
from ..models.digest import FROZEN_ADAPTER, FROZEN_ADAPTERS, START_ADAPTER
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


def drop_frozen_adapters(model: PeftModel, names: Sequence[str] = FROZEN_ADAPTERS) -> None:
    """Remove the frozen adapters that an earlier trainer left in a model, so that the next trainer can add its own."""
    for name in names:
        if name in model.peft_config:
            model.set_adapter("default")
            model.delete_adapter(name)


def freeze_adapter(model: PeftModel) -> None:
    """Make the current trainable adapter the opponent: add a frozen copy of it, in the same dtype."""
    drop_frozen_adapters(model, [FROZEN_ADAPTER])
    _add_copy(model, FROZEN_ADAPTER, "default")


def keep_start(model: PeftModel) -> None:
    """Keep the first opponent, which is the start, as a second frozen adapter; without one, the start is the base model."""
    if FROZEN_ADAPTER in model.peft_config and START_ADAPTER not in model.peft_config:
        _add_copy(model, START_ADAPTER, FROZEN_ADAPTER)


def add_start(model: PeftModel, folder: str) -> None:
    """Load the start's adapter as a second frozen adapter.

    Args:
        model: model around the same base model.
        folder: folder or Hub name of the adapter.
    """
    config = load_adapter_config(folder)
    config.inference_mode = True
    if isinstance(config, LoraConfig) and isinstance(config.init_lora_weights, str):
        config.init_lora_weights = True  # its values are loaded; initialising it as it once was could change the base
    model.add_adapter(START_ADAPTER, config)
    model.load_adapter(str(local_folder(folder)), START_ADAPTER, torch_device=str(model.device))
    model.set_adapter("default")


def _add_copy(model: PeftModel, name: str, original: str) -> None:
    """Add a frozen adapter with exactly another one's values, dtype included."""
    with initialised_plainly(model):
        model.add_adapter(name, copy.deepcopy(model.peft_config["default"]))
    model.set_adapter("default")
    _align(model, name, original)


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
    _align(model, FROZEN_ADAPTER, "default")


def _align(model: PeftModel, name: str, original: str) -> None:
    for copied, frozen in _both_adapters(model, original, name):
        frozen.data = copied.data.clone()
        frozen.requires_grad_(False)


def _both_adapters(model: PeftModel, one: str, other: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield every tensor of an adapter with that of another one. PEFT keeps adapters in dictionaries by name."""
    for module in model.modules():
        if not isinstance(module, torch.nn.ModuleDict | torch.nn.ParameterDict | BufferDict):
            continue
        if one in module and other in module:
            ones = _tensors_of(module[one])
            yield from ((ones[name], tensor) for name, tensor in _tensors_of(module[other]).items())


def _tensors_of(part: torch.nn.Module | torch.Tensor) -> dict[str, torch.Tensor]:
    if isinstance(part, torch.Tensor):
        return {"": part}
    return dict([*part.named_parameters(), *part.named_buffers()])


def in_place_of_the_policy(
    model: torch.nn.Module, name: str = FROZEN_ADAPTER
) -> contextlib.AbstractContextManager[object]:
    """Make a PEFT model compute as the opponent: with the frozen adapter, or with no adapter if there is none.

    Args:
        model: policy. One without an adapter is left unchanged.
        name: name of the frozen adapter; `START_ADAPTER` for the start.
    """
    if not isinstance(model, PeftModel):
        return contextlib.nullcontext()
    frozen = name if name in model.peft_config else None
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


def without_frozen_adapters(
    model: torch.nn.Module, names: Sequence[str] = FROZEN_ADAPTERS
) -> contextlib.AbstractContextManager[object]:
    """Make `save_pretrained` write only the adapters without these names: frozen ones are neither saved nor pushed."""
    if not isinstance(model, PeftModel) or not set(names) & set(model.peft_config):
        return contextlib.nullcontext()
    others = [name for name in model.peft_config if name not in names]
    # Trainer calls the method without naming adapters.
    selecting = functools.partial(model.save_pretrained, selected_adapters=others)
    return mock.patch.object(model, "save_pretrained", selecting)
