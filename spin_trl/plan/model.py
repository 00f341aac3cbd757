"""A recipe's model without its weights: parameters that have a shape, a dtype and a size, and hold no numbers.

It is built from the configuration alone, as transformers, bitsandbytes and PEFT build it, so that what is counted on it is
counted on the real thing: which layers are quantised, what an adapter adds, which weights are tied.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import bitsandbytes as bnb
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.integrations import replace_with_bnb_linear
from transformers.quantizers.base import get_keys_to_not_convert
from trl.trainer.utils import disable_dropout_in_model

from ..errors import PlanError
from ..models.forward.attention import IMPLEMENTATIONS
from ..training.opponent import freeze_adapter

QUANTIZATION_BLOCK = 64
"""Weights that share a scale in bitsandbytes' 4-bit formats: its default, and transformers'."""

NESTED_BLOCK = 256
"""Scales that share a scale of their own where scales are quantised, too (`use_bnb_nested_quant`)."""


@dataclass(frozen=True)
class ModelSettings:
    """How a model is loaded and wrapped.

    Attributes:
        config: of the model.
        dtype: of weights that are not quantised.
        quantization: how linear layers are quantised, or None.
        peft: the adapter that is trained, or None for full fine-tuning.
        frozen_adapter: whether the opponent is a frozen copy of the adapter, as it is after the first iteration.
        precision: `bf16` or `fp16` for mixed precision, else `no`.
        attention: transformers' name of the implementation.
        trust_remote_code: run a model's own code.
        disable_dropout: as in TRL's trainer.
    """

    config: PretrainedConfig
    dtype: torch.dtype
    quantization: BitsAndBytesConfig | None = None
    peft: PeftConfig | None = None
    frozen_adapter: bool = False
    precision: str = "no"
    attention: str = "sdpa"
    trust_remote_code: bool = False
    disable_dropout: bool = True


class PlannedModel:
    """A model whose tensors are fake: operations on them give shapes and sizes, and take neither time nor memory.

    Args:
        settings: how the real one would be loaded.

    Attributes:
        fake: the mode in which tensors are fake; operations on the model run in it.
        model: transformers' model, with the adapter if there is one.

    Raises:
        PlanError: transformers can't build the model from its configuration.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        config = copy.deepcopy(settings.config)
        try:
            with torch.device("meta"):
                self.base: Any = AutoModelForCausalLM.from_config(
                    config,
                    dtype=settings.dtype,
                    attn_implementation=settings.attention,
                    trust_remote_code=settings.trust_remote_code,
                )
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            raise PlanError(f"A model can't be built from its configuration ({config.model_type}): {error}") from error
        self.num_parameters = sum(parameter.numel() for parameter in self.base.parameters())
        embeddings = self.base.get_input_embeddings().weight
        self.num_embeddings = embeddings.numel()
        self.is_tied = self.base.get_output_embeddings().weight is embeddings
        if settings.quantization is not None:
            _quantise(self.base, settings.quantization)
        self.model: PreTrainedModel | PeftModel = self.base
        if settings.peft is not None:
            with torch.device("meta"):
                self.model = _with_adapter(self.base, settings)
        if settings.disable_dropout:
            disable_dropout_in_model(self.model)
        with self.fake:
            self.model.to_empty(device="cpu")
            self.base.tie_weights()
        if settings.attention in IMPLEMENTATIONS:
            self.base.set_attn_implementation(IMPLEMENTATIONS[settings.attention])

    @functools.cached_property
    def layers(self) -> torch.nn.ModuleList | None:
        """The model's layers, where they are alike in all but their number; else None."""
        count = getattr(self.base.config.get_text_config(), "num_hidden_layers", 0)
        lists = [part for part in self.base.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == count]
        return lists[0] if len(lists) == 1 and len({_description(layer) for layer in lists[0]}) == 1 else None

    @property
    def trainable(self) -> list[torch.nn.Parameter]:
        """Parameters that an optimiser is given."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def weight_bytes(self) -> int:
        """Of the model alone, quantised as it is, its buffers included."""
        return sum(_bytes_of_tensor(tensor) for name, tensor in self._tensors() if "lora_" not in name)

    @property
    def adapter_bytes(self) -> int:
        """Of all adapters together."""
        return sum(_bytes_of_tensor(tensor) for name, tensor in self._tensors() if "lora_" in name)

    @property
    def num_trainable(self) -> int:
        return sum(parameter.numel() for parameter in self.trainable)

    def _tensors(self) -> list[tuple[str, torch.Tensor]]:
        return [*self.model.named_parameters(), *self.model.named_buffers()]


def _bytes_of_tensor(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _description(layer: torch.nn.Module) -> str:
    """All that two layers of a model may differ in: parts, settings, and parameters with their shapes and dtypes."""
    parts = [
        (
            name,
            type(part),
            [(key, value) for key, value in vars(part).items() if key != "layer_idx" and _is_plain(value)],
        )
        for name, part in layer.named_modules()
    ]
    tensors = [*layer.named_parameters(), *layer.named_buffers()]
    return repr((parts, [(name, tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in tensors]))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _with_adapter(base: Any, settings: ModelSettings) -> PeftModel:
    model = get_peft_model(base, copy.deepcopy(settings.peft))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # what self-play trains, also where TRL rounds it
    if settings.frozen_adapter:
        freeze_adapter(model)
    return model


def _quantise(model: Any, how: BitsAndBytesConfig) -> None:
    """Let transformers choose the layers that bitsandbytes replaces, and give those that it made a size."""
    kept = how.llm_int8_skip_modules or get_keys_to_not_convert(model)
    replace_with_bnb_linear(model, modules_to_not_convert=list(kept), quantization_config=how)
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            _as_4bit(module, nested=how.bnb_4bit_use_double_quant)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            _as_8bit(module)
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = how.load_in_4bit, how.load_in_8bit
    model.requires_grad_(False)


def _as_4bit(module: Any, *, nested: bool) -> None:
    count, old = module.weight.numel(), module.weight
    module.weight = torch.nn.Parameter(torch.empty((count + 1) // 2, 1, dtype=torch.uint8, device="meta"), False)
    module.weight.compress_statistics, module.weight.quant_type = old.compress_statistics, old.quant_type
    scales = -(-count // QUANTIZATION_BLOCK)
    sizes = scales + 4 * -(-scales // NESTED_BLOCK) if nested else 4 * scales
    module.register_buffer("scales", torch.empty(sizes, dtype=torch.uint8, device="meta"), persistent=False)
    module.__class__ = _Linear4bit


def _as_8bit(module: Any) -> None:
    module.weight = torch.nn.Parameter(torch.empty(module.weight.shape, dtype=torch.int8, device="meta"), False)
    module.register_buffer("scales", torch.empty(module.out_features, device="meta"), persistent=False)
    module.__class__ = _Linear8bit


class _Linear4bit(bnb.nn.Linear4bit):
    """bitsandbytes' layer as far as memory goes: weights are unpacked for every use, and nothing of that is kept."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = x.to(self.compute_dtype) if self.compute_dtype is not None else x
        result = _Unpacked.apply(inside, self.out_features, False)
        if self.bias is not None:
            result = result + self.bias.to(result.dtype)
        return result.to(x.dtype)


class _Linear8bit(bnb.nn.Linear8bitLt):
    """The same for eight bits, which keep their input for the backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = _Unpacked.apply(x.to(torch.float16), self.out_features, True)
        if self.bias is not None:
            result = result + self.bias.to(result.dtype)
        return result.to(x.dtype)


class _Unpacked(torch.autograd.Function):
    """A product with weights that exist only while it is computed."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, num_outputs: int, keep_input: bool) -> torch.Tensor:
        ctx.width = x.size(-1)
        if keep_input:
            ctx.save_for_backward(x)
        with torch.autocast("cpu", enabled=False):  # bitsandbytes' operators are not on autocast's lists
            return x @ x.new_empty(ctx.width, num_outputs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return grad @ grad.new_empty(grad.size(-1), ctx.width), None, None
