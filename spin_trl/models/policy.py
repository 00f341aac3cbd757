"""Load a policy and its tokenizer the same way for every phase."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.utils import create_model_from_path

from ..counts import counted
from ..errors import DataError, message_of
from . import adapters
from .eos import add_eos_ids, own_eos_ids
from .loading import LoadSettings, check_layers, loading
from .merging import merged
from .saving import make_savable
from .vocabulary import check_ids


def load_policy(
    path: str | os.PathLike[str],
    args: LoadSettings,
    quantization_config: BitsAndBytesConfig | None = None,
    *,
    trainable: bool = False,
) -> adapters.Policy:
    """Load full weights, or a base model with the adapter in a folder.

    An adapter that was trained with added tokens has saved the embeddings, and the base model is resized to their number.

    Args:
        path: local folder or Hub name.
        args: settings; `model_init_kwargs` and `trust_remote_code` are used.
        quantization_config: quantisation of the weights, or of an adapter's base model.
        trainable: whether the adapter will be trained further.

    Raises:
        DataError: if there is no such model, its files are damaged, incomplete or not safetensors, or an adapter does not
            fit its base model.
    """
    kwargs = {"trust_remote_code": args.trust_remote_code, "use_safetensors": True, **args.model_kwargs}
    if quantization_config is not None:
        kwargs["quantization_config"] = quantization_config
    # One whole replica per process: TRL's default would spread every process's model over all GPUs. Quantised weights can't
    # be moved later, and transformers would put them on a GPU even with `use_cpu`. bitsandbytes does not support mps.
    device = PartialState().device
    where = {"": torch.device("cpu") if device.type == "mps" else device}
    kwargs.setdefault("device_map", where if quantization_config is not None else None)
    with loading(f"The model {str(path)!r}"):
        if os.path.isdir(path) and not any(Path(path).glob("*.safetensors")):
            raise OSError("the folder has no safetensors weights, and pickles (pytorch_model.bin) are not loaded.")
        if not adapters.is_adapter(path):
            model: adapters.Policy = _load_weights(str(path), kwargs)
        else:
            adapters.check_start(path)
            with loading(f"The base model {adapters.base_of(path)!r}, which {Path(path) / adapters.CONFIG} names,"):
                base = _load_weights(adapters.base_of(path), kwargs)
            with loading(f"The adapter {str(path)!r}"):
                model = _load_adapter(adapters.local_folder(path), base, trainable)
        objection = make_savable(model)
    if objection is not None:
        raise DataError(f"The generation_config.json of the model {str(path)!r} can't be saved again: {objection}")
    keep_differentiable(model)
    return model


def _load_weights(path: str, kwargs: Mapping[str, Any]) -> PreTrainedModel:
    """Load all weights. transformers fills in random numbers for those that it does not find, or finds with other shapes.

    Raises:
        DataError: if some are missing, or have another shape than the configuration says.
    """
    if os.path.isdir(path):
        options = {name: kwargs[name] for name in ("trust_remote_code", "revision") if name in kwargs}
        check_layers(path, AutoConfig.from_pretrained(path, **options))
    # If shapes differ, transformers would raise an error that points to a report which a run does not show.
    passes_over = {"ignore_mismatched_sizes": True}
    # With the loading info it returns a pair, which TRL's type annotations omit.
    loaded: Any = create_model_from_path(path, **{**kwargs, **passes_over}, output_loading_info=True)
    model: PreTrainedModel = loaded[0]
    found: dict[str, Any] = loaded[1]
    mismatched = [] if kwargs.get("ignore_mismatched_sizes") else sorted(found["mismatched_keys"])
    if mismatched:
        name, stored, needed = mismatched[0]
        raise DataError(
            f"The files of the model {path!r} are inconsistent: {name} has the shape {tuple(stored)}, but config.json says "
            f"{tuple(needed)} ({counted(len(mismatched), 'such weight')}). Download them again, all from one model."
        )
    missing = sorted(found["missing_keys"])
    if missing:
        raise DataError(
            f"The files of the model {path!r} lack {counted(len(missing), 'weight')} that config.json requires, such as "
            f"{missing[0]}; random numbers would take their place. Download them again, or correct config.json."
        )
    if (dropout := _impossible_dropout(model)) is not None:
        name, value = dropout
        raise DataError(
            f"The config.json of the model {path!r} sets `{name}` to {value!r}; expected a probability below 1. Download it "
            "again, or correct it."
        )
    if (name := _whole_weight(model)) is not None:
        raise DataError(
            f"The config.json of the model {path!r} says that bitsandbytes has quantised its weights "
            f"(`quantization_config`), but {name} has not been quantised. Remove `quantization_config` from config.json; "
            "`load_in_4bit: true` in the recipe quantises the weights when they are loaded."
        )
    return model


def _impossible_dropout(model: PreTrainedModel) -> tuple[str, object] | None:
    """Return a dropout of a model's configuration that is not a probability, or None.

    Dropout in layers of its own is checked when they are built, that of attention only when the first batch is trained on.
    """
    for name, value in model.config.get_text_config().to_dict().items():
        is_dropout = "dropout" in name or name.endswith(("_drop", "_pdrop"))
        if is_dropout and isinstance(value, int | float) and not 0 <= value < 1:
            return name, value
    return None


def _whole_weight(model: PreTrainedModel) -> str | None:
    """Return the name of a weight in one of bitsandbytes' layers that is not quantised, or None if there is none."""
    if not (getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)):
        return None
    import bitsandbytes as bnb  # takes a second to import, and only quantised models need it

    layers = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
    quantised = (bnb.nn.Params4bit, bnb.nn.Int8Params)
    return next(
        (
            f"{name}.weight"
            for name, module in model.named_modules()
            if isinstance(module, layers) and not isinstance(module.weight, quantised)
        ),
        None,
    )


def _load_adapter(path: Path, base: PreTrainedModel, trainable: bool) -> PeftModel:
    """Load an adapter around its base model, with the embeddings resized to the adapter's."""
    layers = {"input": base.get_input_embeddings(), "output": base.get_output_embeddings()}
    names = {what: name for name, module in base.named_modules() for what, layer in layers.items() if module is layer}
    sizes = adapters.saved_embeddings(path, names) if (path / adapters.WEIGHTS).is_file() else {}
    weight = base.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    present, needed = weight.shape[0], set(sizes.values())
    if len(needed) > 1:
        described = " and ".join(f"{what} embeddings for {size} tokens" for what, size in sizes.items())
        raise DataError(f"The adapter {str(path)!r} has {described}, while its base model has {present}.")
    for size in needed - {present}:
        missing = set(names) - set(sizes) if layers["output"] is not None else set()
        if missing and getattr(layers["output"], "weight", None) is not layers["input"].weight:
            what = missing.pop()
            raise DataError(
                f"The adapter {str(path)!r} has {next(iter(sizes))} embeddings for {size} tokens, its base model "
                f"{base.config._name_or_path!r} for {present}, and the added rows of the {what} embeddings are missing. "
                "Save the adapter with both (`modules_to_save`), or save a resized base model and let the adapter name it."
            )
        base.resize_token_embeddings(size, mean_resizing=False)  # the adapter has the rows' values
    add_eos_ids(base, own_eos_ids(path))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*Found missing adapter keys", UserWarning)
            return PeftModel.from_pretrained(base, str(path), is_trainable=trainable)
    except UserWarning as error:
        raise DataError(
            f"The file of the adapter {str(path)!r} lacks weights that {adapters.CONFIG} requires; random numbers would "
            f"take their place. Download it again, or correct {adapters.CONFIG}. ({message_of(error)[:300]})"
        ) from error
    except RuntimeError as error:
        raise DataError(
            f"The adapter {str(path)!r} does not fit its base model {base.config._name_or_path!r}, whose embeddings are for "
            f"{present} tokens: {error}"
        ) from error


USUAL_WEIGHT = 0.02
"""Typical size of a language model's weights (the standard deviation of their initialisation)."""


def lost_steps(model: torch.nn.Module, learning_rate: float) -> str | None:
    """Return why training would change almost nothing, because steps are shorter than half the spacing of numbers; or None.

    Args:
        model: model with the weights as they will be trained.
        learning_rate: approximately how far Adam and RMSprop move a weight in a step.
    """
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    for dtype in dtypes & {torch.bfloat16, torch.float16}:
        if learning_rate < USUAL_WEIGHT * torch.finfo(dtype).eps / 2:
            name = str(dtype).removeprefix("torch.")
            return (
                f"The weights are trained in {name}, which is too coarse for steps of {learning_rate:g}: most steps are "
                "lost to rounding. Train in float32 (`dtype: float32`, with `bf16: true` for speed), under FSDP or "
                "DeepSpeed, or with LoRA."
            )
    return None


def rounds_by_batch(model: torch.nn.Module) -> bool:
    """Return whether a row's result depends on the other rows of its batch, as with LLM.int8()'s layers (`load_in_8bit`).

    These layers compute inputs that are large in any token of a batch in float16, and round the others to eight bits. The
    same weights can then differ by several tenths of a nat per token between batches.
    """
    return bool(getattr(model, "is_loaded_in_8bit", False))


def keep_differentiable(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights when a model generates or is evaluated on a CPU.

    Its format for inference there is coarser and has no gradient, so an adapter trained afterwards would learn nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # torch types all attributes of a module as tensors and modules.
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
            module.state_dict()  # unpacks the weights, if they have already been repacked


TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Tokenizer files; a folder with a tokenizer has at least one of them."""


def load_tokenizer(path: str | os.PathLike[str], args: LoadSettings) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; without a pad token it pads with EOS, as in TRL.

    For a folder with an adapter and no tokenizer, it is the base model's.

    Raises:
        DataError: if there is none, it has no EOS token, or an id that no vocabulary is large enough for.
    """
    if adapters.is_adapter(path) and not any(
        (adapters.local_folder(path) / name).is_file() for name in TOKENIZER_FILES
    ):
        path = adapters.base_of(path)
    options = {"trust_remote_code": args.trust_remote_code, "revision": args.model_kwargs.get("revision")}
    with loading(f"The tokenizer of {str(path)!r}"):
        tokenizer = AutoTokenizer.from_pretrained(str(path), **options)
        tokenizer.decode(tokenizer("a b")["input_ids"])  # some values of its configuration are not used before
    check_ids(tokenizer, str(path))
    if tokenizer.eos_token is None:
        raise DataError(
            f"The tokenizer of {str(path)!r} has no EOS token, so no response would ever end. Set `eos_token`."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def merge_adapter(folder: Path, args: LoadSettings) -> None:
    """Replace a saved adapter with the merged weights of the adapter and its base model, unquantised (see [`merged`])."""
    adapted = load_policy(folder, args)
    assert isinstance(adapted, PeftModel)
    whole = merged(adapted)
    for name in (adapters.CONFIG, adapters.WEIGHTS):
        (folder / name).unlink()
    whole.save_pretrained(folder)
