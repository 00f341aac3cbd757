"""Loads a policy the same way for every phase, and names weights by a digest."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from accelerate import PartialState
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from trl.trainer.utils import create_model_from_path

from .config import SPINConfig
from .data.template import eos_token_ids
from .errors import DataError

FROZEN_ADAPTER = "ref"
"""TRL's name of the adapter that stands in for the reference model: in self-play, the opponent."""


def is_adapter(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a PEFT adapter instead of whole weights."""
    return (Path(path) / "adapter_config.json").is_file()


def load_policy(
    path: str | os.PathLike[str],
    args: SPINConfig,
    quantization_config: BitsAndBytesConfig | None = None,
    *,
    trainable: bool = False,
) -> PreTrainedModel | PeftModel:
    """Load weights, or a base model with the adapter that lies in a folder.

    Args:
        path: local folder or Hub name.
        args: `model_init_kwargs` and `trust_remote_code` are used.
        quantization_config: for the base model of an adapter.
        trainable: whether the adapter is to be trained further.

    Raises:
        DataError: there is no such model, or its weights are not safetensors.
    """
    kwargs = {"trust_remote_code": args.trust_remote_code, "use_safetensors": True, **(args.model_init_kwargs or {})}
    if quantization_config is not None:
        kwargs["quantization_config"] = quantization_config
    # One whole replica a process: TRL's default would spread every process's model over all GPUs. Quantised weights can't be
    # moved later, and transformers would put them on a GPU that `use_cpu` leaves alone. bitsandbytes does not know mps.
    device = PartialState().device
    where = {"": torch.device("cpu") if device.type == "mps" else device}
    kwargs.setdefault("device_map", where if quantization_config is not None else None)
    try:
        if os.path.isdir(path) and not any(Path(path).glob("*.safetensors")):
            raise OSError("the folder has no weights in safetensors, and pickles (pytorch_model.bin) are not loaded.")
        if is_adapter(path):
            base = PeftConfig.from_pretrained(str(path)).base_model_name_or_path
            model = PeftModel.from_pretrained(
                create_model_from_path(base, **kwargs), str(path), is_trainable=trainable
            )
        else:
            model = create_model_from_path(str(path), **kwargs)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, SafetensorError) as error:
        raise DataError(f"The model {str(path)!r} can't be loaded: {error}") from error
    keep_differentiable(model)
    return model


USUAL_WEIGHT = 0.02
"""Size of most weights of a language model (the standard deviation that they are initialised with)."""


def lost_steps(model: torch.nn.Module, learning_rate: float) -> str | None:
    """Why training would change next to nothing, or None: steps shorter than half the distance between two numbers.

    Args:
        model: with the weights as they will be trained.
        learning_rate: about how far Adam and RMSprop move a weight in a step.
    """
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    for dtype in dtypes & {torch.bfloat16, torch.float16}:
        if learning_rate < USUAL_WEIGHT * torch.finfo(dtype).eps / 2:
            name = str(dtype).removeprefix("torch.")
            return (
                f"The weights are trained in {name}, whose numbers lie further apart than steps of {learning_rate:g} are "
                "long: most steps are lost. Train in float32 (`dtype: float32`, with `bf16: true` for speed), under FSDP "
                "or DeepSpeed, or with LoRA."
            )
    return None


def keep_differentiable(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights when a model answers or is evaluated on a CPU.

    Its format for inference there is coarser and has no gradient: an adapter that is trained afterwards learns nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
            module.state_dict()  # unpacks the weights, if they have been repacked already


def load_tokenizer(path: str | os.PathLike[str], args: SPINConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; without a pad token it pads with EOS, as TRL does.

    Raises:
        DataError: there is none, or it has neither pad nor EOS token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path),
            trust_remote_code=args.trust_remote_code,
            revision=(args.model_init_kwargs or {}).get("revision"),
        )
    except (OSError, ValueError) as error:
        raise DataError(f"The tokenizer of {str(path)!r} can't be loaded: {error}") from error
    if tokenizer.eos_token is None:
        raise DataError(
            f"The tokenizer of {str(path)!r} has no EOS token, so no response would ever end. Set `eos_token`."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_eos_ids(path: str | None, args: SPINConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a response of a model: its tokenizer's EOS, and those of its generation config, if it has one.

    Args:
        path: local folder or Hub name; None: a model that is built from scratch has no generation config.
        args: the revision in `model_init_kwargs` is used.
        tokenizer: of the model.
    """
    revision = (args.model_init_kwargs or {}).get("revision") or "main"
    try:
        config = GenerationConfig.from_pretrained(path, revision=revision) if path else None
    except OSError:
        config = None  # a model may come without one
    return eos_token_ids(tokenizer, config)


def merge_adapter(folder: Path, args: SPINConfig) -> None:
    """Replace a saved adapter by the weights that it and its base model make together, unquantised."""
    merged = load_policy(folder, args).merge_and_unload()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).unlink()
    merged.save_pretrained(folder)


def digest(model: torch.nn.Module, *, adapter_is_new: bool = False) -> str:
    """Hash of a model's weights, the same in whichever floating-point format they were loaded.

    Args:
        model: a model, or a PEFT model around one. The frozen adapter is left out.
        adapter_is_new: leave out the trainable adapter, too: a new one changes nothing yet.

    Returns:
        16 hexadecimal digits.
    """
    hasher = hashlib.sha256()
    named = [(_plain(name), tensor) for name, tensor in model.state_dict().items()]
    for name, tensor in sorted(named, key=lambda one: one[0]):
        if f".{FROZEN_ADAPTER}." in name or (adapter_is_new and "lora_" in name):
            continue
        tensor = tensor.detach()
        if tensor.is_floating_point():
            # bfloat16 is the coarsest format that weights are loaded in; the sign of zero means nothing.
            tensor = (tensor.to(torch.bfloat16) + 0.0).view(torch.int16)
        hasher.update(name.encode())
        hasher.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()[:16]


def _plain(name: str) -> str:
    name = name.removeprefix("base_model.model.")
    # Adapters of fused experts are wrapped in one another: only `.base_layer` tells them apart.
    return name if "lora_" in name else name.replace(".base_layer", "")
