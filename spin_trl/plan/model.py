"""A recipe's model without its weights: parameters with a shape, a dtype and a size, but no values.

It is built from the configuration alone, in the way transformers, bitsandbytes and PEFT build it, so that counts match the
real model: which layers are quantised, what an adapter adds, which weights are tied.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
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

from ..errors import PlanError, message_of
from ..models.forward.attention import IMPLEMENTATIONS
from ..models.loading import is_of_files
from ..training.opponent import freeze_adapter

QUANTIZATION_BLOCK = 64
"""Weights that share a scale in bitsandbytes' 4-bit formats: the default of bitsandbytes and transformers."""

NESTED_BLOCK = 256
"""Scales that share a second-level scale if scales are quantised too (`use_bnb_nested_quant`)."""


@dataclass(frozen=True)
class ModelSettings:
    """Settings for loading and wrapping a model.

    Attributes:
        config: configuration of the model.
        dtype: dtype of weights that are not quantised.
        quantization: quantisation of the linear layers, or None.
        peft: adapter to train, or None for full fine-tuning.
        frozen_adapter: whether the opponent is a frozen copy of the adapter, as it is after the first iteration.
        precision: `bf16` or `fp16` for mixed precision, else `no`.
        attention: transformers' name of the attention implementation.
        trust_remote_code: whether to run a model's own code.
        disable_dropout: whether dropout is disabled, as in TRL's trainer.
        checkpointing: whether activations are recomputed in the backward pass.
        on_gpu: whether TRL's head runs as on a GPU.
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
    checkpointing: bool = False
    on_gpu: bool = False


class PlannedModel:
    """A model with fake tensors: operations on them yield shapes and sizes, and take no memory and almost no time.

    Args:
        settings: settings that the real model would be loaded with.

    Attributes:
        fake: fake tensor mode that operations on the model run in.
        base: transformers' model.
        model: the base, wrapped in the adapter if there is one.
        num_parameters, num_embeddings, num_layers: sizes of the base.
        is_tied: whether its head is tied to its embeddings.
        trainable, num_trainable: parameters that the optimiser trains, and their number of values.
        weight_bytes: bytes of the base alone after quantisation, including buffers.
        adapter_bytes: bytes of all adapters together.
        alike_layers: the base's layers, if they differ only in their index; else empty.

    Raises:
        PlanError: if transformers can't build the model from its configuration.
    """

    def __init__(self, settings: ModelSettings) -> None:
        # Long, because the attributes are derived from each other, once.
        self.settings = settings
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        config = copy.deepcopy(settings.config)
        with _building(config), torch.device("meta"):
            self.base: Any = AutoModelForCausalLM.from_config(
                config,
                dtype=settings.dtype,
                attn_implementation=settings.attention,
                trust_remote_code=settings.trust_remote_code,
            )
        self.num_parameters = sum(parameter.numel() for parameter in self.base.parameters())
        embeddings = self.base.get_input_embeddings().weight
        self.num_embeddings = embeddings.numel()
        self.num_layers = max(getattr(self.base.config.get_text_config(), "num_hidden_layers", 1), 1)
        self.is_tied = self.base.get_output_embeddings().weight is embeddings
        if settings.quantization is not None:
            _quantise(self.base, settings.quantization)
        self.model: PreTrainedModel | PeftModel = self.base
        if settings.peft is not None:
            with _building(config), torch.device("meta"):
                self.model = _with_adapter(self.base, settings)
        if settings.disable_dropout:
            disable_dropout_in_model(self.model)
        with self.fake:
            self.model.to_empty(device="cpu")
            self.base.tie_weights()
        if settings.attention in IMPLEMENTATIONS:
            self.base.set_attn_implementation(IMPLEMENTATIONS[settings.attention])
        tensors = _tensors(self.model)
        self.adapter_bytes = sum(bytes_of(tensor) for name, tensor in tensors if "lora_" in name)
        self.weight_bytes = sum(bytes_of(tensor) for _, tensor in tensors) - self.adapter_bytes
        self.trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.num_trainable = sum(parameter.numel() for parameter in self.trainable)
        found = [part for part in self.base.modules() if isinstance(part, torch.nn.ModuleList)]
        lists = [layers for layers in found if len(layers) == self.num_layers]
        is_alike = len(lists) == 1 and len(set(map(_description, lists[0]))) == 1
        self.alike_layers = lists[0] if is_alike else torch.nn.ModuleList()


def bytes_of(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()


def _tensors(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _description(layer: torch.nn.Module) -> str:
    """Describe everything that two layers of a model may differ in: modules, settings, and parameter shapes and dtypes."""
    found: list[Any] = [(n, t.shape, t.dtype, t.requires_grad) for n, t in _tensors(layer)]
    for name, part in layer.named_modules():
        settings = {
            key: value for key, value in vars(part).items() if isinstance(value, (int, float, str, type(None)))
        }
        found.append((name, type(part), settings | {"layer_idx": None}))
    return repr(found)


@contextlib.contextmanager
def _building(config: PretrainedConfig) -> Iterator[None]:
    """Turn errors of transformers and PEFT into a `PlanError` which says that the model can't be built."""
    try:
        yield
    except Exception as error:
        if not is_of_files(error):
            raise
        said = message_of(error)
        raise PlanError(f"A model can't be built from its configuration ({config.model_type}): {said}") from error


def _with_adapter(base: Any, settings: ModelSettings) -> PeftModel:
    assert settings.peft is not None
    model = get_peft_model(base, copy.deepcopy(settings.peft))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = (
                parameter.data.float()
            )  # self-play trains the adapter in float32, even where TRL would round it
    if settings.frozen_adapter:
        freeze_adapter(model)
    return model


def _quantise(model: Any, how: BitsAndBytesConfig) -> None:
    """Let transformers choose the layers that bitsandbytes replaces, and set the sizes of the replaced weights."""
    kept, dtype = how.llm_int8_skip_modules or get_keys_to_not_convert(model), model.dtype
    replace_with_bnb_linear(model, modules_to_not_convert=list(kept), quantization_config=how)
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            old: Any = module.weight
            count = old.numel()
            scales = -(-count // QUANTIZATION_BLOCK)
            size = scales + 4 * -(-scales // NESTED_BLOCK) if how.bnb_4bit_use_double_quant else 4 * scales
            _replace(module, ((count + 1) // 2, 1), size, _Linear4bit, dtype)
            vars(module.weight).update(compress_statistics=old.compress_statistics, quant_type=old.quant_type)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            _replace(module, module.weight.shape, 4 * module.out_features, _Linear8bit, torch.float32)
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = how.load_in_4bit, how.load_in_8bit
    model.requires_grad_(False)


def _replace(module: Any, shape: Sequence[int], scales: int, kind: type, unpacked_dtype: torch.dtype) -> None:
    """Give a layer one-byte weights of a shape, and a buffer with `scales` bytes of scales."""
    module.unpacked_dtype = unpacked_dtype
    module.weight = torch.nn.Parameter(torch.empty(shape, dtype=torch.uint8, device="meta"), False)
    module.register_buffer("scales", torch.empty(scales, dtype=torch.uint8, device="meta"), persistent=False)
    module.__class__ = kind


class _Dequantising:
    """What PEFT asks a quantised layer for whose weights it needs, as DoRA does for their norm: the whole matrix."""

    unpacked_dtype: torch.dtype

    @property
    def W_q(self: Any) -> torch.Tensor:  # noqa: N802
        """PEFT lets a layer with this attribute dequantise itself."""
        found: torch.Tensor = self.weight
        return found

    def dequantize(self: Any) -> torch.Tensor:
        """Return weights of the layer's shape before it was quantised."""
        found: torch.Tensor = self.weight
        return found.new_empty(self.out_features, self.in_features, dtype=self.unpacked_dtype)


class _Linear4bit(_Dequantising, bnb.nn.Linear4bit):
    """bitsandbytes' 4-bit layer as far as memory goes: weights are unpacked for every use and not kept."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _product(self, x.to(self.compute_dtype or x.dtype), keep_input=False).to(x.dtype)


class _Linear8bit(_Dequantising, bnb.nn.Linear8bitLt):
    """bitsandbytes' 8-bit layer as far as memory goes; it keeps its input for the backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _product(self, x.to(torch.float16), keep_input=True).to(x.dtype)


def _product(layer: torch.nn.Linear, x: torch.Tensor, *, keep_input: bool) -> torch.Tensor:
    result = _Unpacked.apply(x, layer.out_features, keep_input)
    return result if layer.bias is None else result + layer.bias.to(result.dtype)


class _Unpacked(torch.autograd.Function):
    """A matrix product whose weights exist only while it is computed."""

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
