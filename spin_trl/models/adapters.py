"""PEFT's adapters: where they are stored, which base model they need, and which new ones an iteration can't start from."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard, cast

import torch
from accelerate.utils import is_peft_model
from huggingface_hub import snapshot_download
from peft import AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, PromptLearningConfig
from peft.utils.other import TrainableTokensWrapper
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file
from trl import ModelConfig, get_peft_config

from ..errors import DataError
from .loading import loading
from .moved import base_in_run

Policy: TypeAlias = PreTrainedModel | PeftModel
"""A model to train or to generate with: plain weights, or with an adapter around them."""

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FETCHED = [
    CONFIG, WEIGHTS, "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "*.model", "chat_template*", "additional_chat_templates/*",
]  # fmt: skip
"""Files that are fetched from an adapter's repository: no checkpoints, no pickles."""

_CHANGES_THE_BASE = (
    "it changes the weights of the base model, which without the adapter would no longer be the opponent"
)
_NEEDS_DATA = "it is computed from data by a PEFT function that self-play does not call"
_INITIALISATIONS = {
    "pissa": ("PiSSA", _CHANGES_THE_BASE),
    "olora": ("OLoRA", _CHANGES_THE_BASE),
    "loftq": ("LoftQ", _CHANGES_THE_BASE),
    "corda": ("CorDA", _CHANGES_THE_BASE),
    "lora_ga": ("LoRA-GA", _CHANGES_THE_BASE),
    "eva": ("EVA", _NEEDS_DATA),
}
"""By prefix of PEFT's `init_lora_weights`: the method's name, and why a policy can't start from it."""

_OUTPUT_LAYERS = ("lm_head", "embed_out")
_INPUT_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")


def has_adapter(model: object) -> TypeGuard[PeftModel]:
    """Return whether this is a model in memory with a PEFT adapter, even if it is wrapped for training."""
    return isinstance(model, torch.nn.Module) and bool(is_peft_model(model))


def without_adapter(model: Policy) -> PreTrainedModel:
    """Return the model inside an adapter, or the model itself if it has none."""
    if not isinstance(model, PeftModel):
        return model
    return cast(PreTrainedModel, model.get_base_model())  # PEFT types it as Module, since it adapts any


def is_adapter(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder or a Hub repository holds a PEFT adapter instead of full weights."""
    return os.path.isfile(local_folder(path) / CONFIG)


def local_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder of an adapter: for one on the Hub, its folder in the cache; any other path or name unchanged.

    Raises:
        DataError: if there is such an adapter on the Hub but it can't be fetched completely.
    """
    if isinstance(path, str) and not os.path.exists(path) and _HUB_NAME.fullmatch(path):
        return _fetch(path)
    return Path(path)


@functools.cache
def _fetch(name: str) -> Path:
    try:
        config = find_adapter_config_file(name)
    except (OSError, ValueError):  # no such repository, or no connection: loading the model will report it
        config = None
    if config is None:
        return Path(name)
    with loading(f"The adapter {name!r}", "fetched from the Hub"):
        return Path(snapshot_download(name, revision=Path(config).parent.name, allow_patterns=_FETCHED))


def hub_revision(path: str, revision: str | None) -> Iterator[str]:
    """Yield a reason if a revision is set for an adapter on the Hub, as it would also apply to its base model."""
    if revision not in (None, "main") and is_adapter(path) and not is_adapter(Path(path)):
        yield (
            f"`model_revision` ({revision}) would apply to both the adapter {path!r} and its base model. Download the "
            f"adapter (`hf download {path} --revision {revision} --local-dir FOLDER`), and name the folder."
        )


def load_adapter_config(path: str | os.PathLike[str]) -> PeftConfig:
    """Return the configuration of an adapter.

    Args:
        path: folder or Hub name of the adapter.

    Raises:
        DataError: if it can't be read, or PEFT does not know its type.
    """
    with loading(str(Path(path) / CONFIG), "read"):
        return PeftConfig.from_pretrained(str(local_folder(path)))


def base_of(path: str | os.PathLike[str]) -> str:
    """Return the base model of an adapter: a folder or a Hub name.

    A base inside a run directory is found even after the directory was moved or copied.

    Args:
        path: folder or Hub name of the adapter.

    Raises:
        DataError: if its configuration can't be read, or names no base model.
    """
    named = load_adapter_config(path).base_model_name_or_path
    if not named:
        raise DataError(f"{Path(path) / CONFIG} names no base model. Set `base_model_name_or_path` there.")
    inside = base_in_run(Path(path), str(named)) if os.path.isdir(path) else None
    return str(named) if inside is None else str(inside)


def peft_config_of(model: ModelConfig, *, use_peft: bool | None = None) -> PeftConfig | None:
    """Return the adapter that a recipe asks for, or None; `use_peft` replaces the recipe's setting.

    TRL's `ModelConfig` turns a list with one target module into a string, which PEFT takes as a regular expression over full
    names: `[q_proj]` would then adapt nothing. Here a string that doesn't look like a regular expression is a module name.
    """
    model = copy.copy(model)
    model.use_peft = model.use_peft if use_peft is None else use_peft
    model.lora_target_modules = _as_list(model.lora_target_modules)
    for name in ("lora_modules_to_save", "lora_target_parameters"):
        value = getattr(model, name)
        setattr(model, name, [value] if isinstance(value, str) else value)
    return get_peft_config(model)


def _as_list(modules: Any) -> Any:
    if isinstance(modules, list) and len(modules) == 1:
        modules = modules[0]
    if isinstance(modules, str) and modules != "all-linear" and re.fullmatch(r"[\w.-]+", modules):
        return [modules]
    return modules


def adapter_refusals(peft_config: Any) -> Iterator[str]:
    """Yield reasons, as sentences, why an iteration can't start from a new adapter.

    Self-play's opponent is the base model, which a new adapter must not change: then every log-ratio of the first step is
    zero, and the model without its adapter remains the opponent while the adapter learns.

    Args:
        peft_config: configuration of the new adapter, or None.
    """
    if not isinstance(peft_config, PeftConfig):
        return
    method = getattr(peft_config.peft_type, "value", peft_config.peft_type)
    if isinstance(peft_config, PromptLearningConfig) or method == "CARTRIDGE":
        yield (
            f"`peft_config` is {type(peft_config).__name__}: its virtual tokens change the model's output before anything "
            "is learned, so the policy would not start at its opponent. Use LoRA."
        )
        return
    if getattr(peft_config, "inference_mode", False):
        yield "`peft_config` has `inference_mode: true`, so the adapter would not be trained. Set it to false."
        return
    task = getattr(peft_config.task_type, "value", peft_config.task_type)
    if task not in (None, "CAUSAL_LM"):
        yield f"`task_type` is {task!r}, but self-play trains a language model. Set `task_type: CAUSAL_LM`."
    initialisation = getattr(peft_config, "init_lora_weights", True)
    for beginning, (name, why) in _INITIALISATIONS.items():
        if isinstance(initialisation, str) and initialisation.lower().startswith(beginning):
            yield (
                f"`init_lora_weights: {initialisation}` ({name}) can't be used for self-play: {why}. Leave it out (`true`)."
            )
    for name in ("init_lora_weights", "init_weights", "init_ia3_weights"):
        if getattr(peft_config, name, True) is False:
            yield (
                f"`{name}: false` initialises the adapter with random weights, which change the model's output before "
                "anything is learned, so the policy would not start at its opponent. Set it to true."
            )
    bias = getattr(peft_config, "bias", "none")
    if bias != "none":
        yield (
            f"`bias: {bias}` trains biases of the base model in place, which without the adapter would no longer be the "
            "opponent's. Set `bias: none`."
        )
    if isinstance(peft_config, LoraConfig) and _adapts_output(peft_config):
        yield (
            "`target_modules` adapts the output layer (`lm_head`), but the log-probabilities are computed directly from "
            "that layer's weights, so the adapter would have no effect. Leave it out (`ensure_weight_tying` too), or name "
            "it in `modules_to_save`."
        )


def without_copies(peft_config: Any) -> Iterator[str]:
    """Yield a reason if PEFT allows no frozen copy of a new adapter, which is the opponent from the second iteration on."""
    if isinstance(peft_config, AdaLoraConfig):
        yield (
            "`peft_config` is AdaLoraConfig: PEFT allows only one such adapter per model, and from the second iteration on "
            "the opponent is a copy of it. Use LoRA."
        )


def second_adapter(model: Any, peft_config: Any) -> Iterator[str]:
    """Yield a reason if a new adapter is given for a model that already has one.

    Args:
        model: model in memory, or its name.
        peft_config: configuration of the new adapter, or None.
    """
    if peft_config is not None and (isinstance(model, PeftModel) or (isinstance(model, str) and is_adapter(model))):
        yield (
            "`model` already has an adapter, and `peft_config` asks for another one. Leave out `peft_config` to train that "
            "adapter further, or pass the model with its adapter merged (`model.merge_and_unload()`)."
        )


def output_layer_refusals(model: Any) -> list[str]:
    """Return a reason if single tokens of the output layer are trained, as they are if the model ties its embeddings.

    Args:
        model: model with its adapter.
    """
    if not isinstance(model, PeftModel) or not isinstance(model.get_output_embeddings(), TrainableTokensWrapper):
        return []
    return [
        "`trainable_token_indices` trains rows of the embeddings, which this model shares with its output layer, but the "
        "log-probabilities are computed directly from that layer's weights. Name the layer in `modules_to_save` instead."
    ]


def check_start(path: str | os.PathLike[str]) -> None:
    """Raise unless loading an adapter repeatedly gives the same result.

    With PiSSA and OLoRA, PEFT subtracts the adapter's initial matrices from the base weights at every load, always the same
    ones. The methods refused here subtract different ones at each load, or need something that is not saved.

    Args:
        path: folder of the adapter.

    Raises:
        DataError: if the adapter was initialised by one of these methods.
    """
    initialisation = getattr(load_adapter_config(path), "init_lora_weights", True)
    if isinstance(initialisation, str) and initialisation.lower().startswith(("pissa_niter", "loftq", "corda")):
        raise DataError(
            f"The adapter {str(path)!r} has `init_lora_weights: {initialisation}`, with which PEFT changes the weights of "
            "the base model at every load, and not always in the same way. Save it as plain LoRA (PEFT's `save_pretrained` "
            "with `path_initial_model_for_weight_conversion`), or merge it into its base model, and start from that."
        )


def _adapts_output(config: LoraConfig) -> bool:
    targets = config.target_modules
    layers = _OUTPUT_LAYERS + (_INPUT_EMBEDDINGS if config.ensure_weight_tying else ())
    if isinstance(targets, str):
        with contextlib.suppress(re.error):
            return targets != "all-linear" and any(re.fullmatch(targets, layer) for layer in layers)
        return False
    return any(target.rpartition(".")[2] in layers for target in targets or ())


def saved_embeddings(path: str | os.PathLike[str], layers: dict[str, str]) -> dict[str, int]:
    """Return the number of tokens in the embeddings that an adapter has saved, by layer, for those that it has saved.

    Args:
        path: folder or Hub name of the adapter.
        layers: names of the input and output embeddings in the base model, by the label to return them under.

    Raises:
        OSError: if the adapter has no weights in safetensors, or they are damaged.
    """
    found = {}
    try:
        with safe_open(local_folder(path) / WEIGHTS, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (this is no mapping)
                for what, layer in layers.items():
                    shape = file.get_slice(key).get_shape()
                    if (size := _tokens(key, layer, shape)) is not None:
                        found[what] = size
    except SafetensorError as error:
        raise OSError(f"{WEIGHTS}: {error}") from error
    return found


def _tokens(key: str, layer: str, shape: list[int]) -> int | None:
    """Return the number of tokens of an embedding layer, from the shape of a weight that was saved for it."""
    _, found, rest = f".{key}".partition(f".{layer}.")
    if not found:
        return None
    if rest in ("weight", "base_layer.weight", "modules_to_save.weight", "original_module.weight"):
        return shape[0]
    return shape[1] if rest == "lora_embedding_A" and len(shape) == 2 else None
