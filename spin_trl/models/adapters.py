"""PEFT's adapters: where they lie, which base model they need, and which new ones an iteration can't start from."""

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
"""A model that is trained or answers: its weights alone, or with an adapter around them."""

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FETCHED = [
    CONFIG, WEIGHTS, "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "*.model", "chat_template*", "additional_chat_templates/*",
]  # fmt: skip
"""What is taken of an adapter's repository: no checkpoints, no pickles."""

_CHANGES_THE_BASE = (
    "it changes the weights of the base model, and without the adapter these are no longer the opponent"
)
_NEEDS_DATA = "it is computed from data by a function of PEFT that self-play does not call"
_INITIALISATIONS = {
    "pissa": ("PiSSA", _CHANGES_THE_BASE),
    "olora": ("OLoRA", _CHANGES_THE_BASE),
    "loftq": ("LoftQ", _CHANGES_THE_BASE),
    "corda": ("CorDA", _CHANGES_THE_BASE),
    "lora_ga": ("LoRA-GA", _CHANGES_THE_BASE),
    "eva": ("EVA", _NEEDS_DATA),
}
"""By the beginning of PEFT's `init_lora_weights`: the method's name, and why a policy can't start from it."""

_OUTPUT_LAYERS = ("lm_head", "embed_out")
_INPUT_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")


def has_adapter(model: object) -> TypeGuard[PeftModel]:
    """Whether this is a model in memory, with a PEFT adapter; whatever is wrapped around both for training."""
    return isinstance(model, torch.nn.Module) and bool(is_peft_model(model))


def without_adapter(model: Policy) -> PreTrainedModel:
    """The model that an adapter lies around; one that has none as it is."""
    if not isinstance(model, PeftModel):
        return model
    return cast(PreTrainedModel, model.get_base_model())  # whose type PEFT gives as Module, for it adapts any


def is_adapter(path: str | os.PathLike[str]) -> bool:
    """Whether a folder, or a repository of the Hub, holds a PEFT adapter instead of whole weights."""
    return os.path.isfile(local_folder(path) / CONFIG)


def local_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of an adapter: of one on the Hub, where the cache has it. Every other path or name as it is.

    Raises:
        DataError: there is such an adapter on the Hub, and not all of it can be fetched.
    """
    if isinstance(path, str) and not os.path.exists(path) and _HUB_NAME.fullmatch(path):
        return _fetch(path)
    return Path(path)


@functools.cache
def _fetch(name: str) -> Path:
    try:
        config = find_adapter_config_file(name)
    except (OSError, ValueError):  # no such repository, or no way to ask for it: loading the model will say so
        config = None
    if config is None:
        return Path(name)
    with loading(f"The adapter {name!r}", "fetched from the Hub"):
        return Path(snapshot_download(name, revision=Path(config).parent.name, allow_patterns=_FETCHED))


def hub_revision(path: str, revision: str | None) -> Iterator[str]:
    """A revision beside an adapter on the Hub, which would be its base model's, too."""
    if revision not in (None, "main") and is_adapter(path) and not is_adapter(Path(path)):
        yield (
            f"`model_revision` ({revision}) would be the revision of the adapter {path!r} and of its base model, too. Fetch "
            f"the adapter (`hf download {path} --revision {revision} --local-dir FOLDER`), and name the folder."
        )


def load_adapter_config(path: str | os.PathLike[str]) -> PeftConfig:
    """The configuration of an adapter.

    Args:
        path: folder or Hub name of the adapter.

    Raises:
        DataError: it can't be read, or is of a kind that PEFT does not know.
    """
    with loading(str(Path(path) / CONFIG), "read"):
        return PeftConfig.from_pretrained(str(local_folder(path)))


def base_of(path: str | os.PathLike[str]) -> str:
    """The base model of an adapter: a folder or a Hub name.

    A base that lies in a run directory is found there also after the directory was moved or copied.

    Args:
        path: folder or Hub name of the adapter.

    Raises:
        DataError: its configuration can't be read, or names no base model.
    """
    named = load_adapter_config(path).base_model_name_or_path
    if not named:
        raise DataError(f"{Path(path) / CONFIG} names no base model. Set `base_model_name_or_path` there.")
    inside = base_in_run(Path(path), str(named)) if os.path.isdir(path) else None
    return str(named) if inside is None else str(inside)


def peft_config_of(model: ModelConfig) -> PeftConfig | None:
    """The adapter that a recipe asks for, or None.

    TRL's `ModelConfig` turns a list of one target module into text, which PEFT takes for a regular expression over whole
    names: `[q_proj]` would then adapt nothing. Text without any sign of a regular expression is a module's name here.
    """
    model = copy.copy(model)
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
    """Why an iteration can't start from a new adapter: reasons, as sentences; none if it can.

    Self-play's opponent is the base model, to which a new adapter must add nothing: then every log-ratio of the first step
    is zero, and the model without its adapter stays the opponent while the adapter learns.

    Args:
        peft_config: of the new adapter, or None.
    """
    if not isinstance(peft_config, PeftConfig):
        return
    method = getattr(peft_config.peft_type, "value", peft_config.peft_type)
    if isinstance(peft_config, PromptLearningConfig) or method == "CARTRIDGE":
        yield (
            f"`peft_config` is {type(peft_config).__name__}: its virtual tokens change what the model says before anything "
            "is learned, so the policy would not start at its opponent. Use LoRA."
        )
        return
    if getattr(peft_config, "inference_mode", False):
        yield "`peft_config` has `inference_mode: true`, so the adapter would not be trained. Set it to false."
        return
    task = getattr(peft_config.task_type, "value", peft_config.task_type)
    if task not in (None, "CAUSAL_LM"):
        yield f"`task_type` is {task!r}, but a language model is trained. Set `task_type: CAUSAL_LM`."
    initialisation = getattr(peft_config, "init_lora_weights", True)
    for beginning, (name, why) in _INITIALISATIONS.items():
        if isinstance(initialisation, str) and initialisation.lower().startswith(beginning):
            yield f"`init_lora_weights: {initialisation}` ({name}) can't be self-played: {why}. Leave it out (`true`)."
    for name in ("init_lora_weights", "init_weights", "init_ia3_weights"):
        if getattr(peft_config, name, True) is False:
            yield (
                f"`{name}: false` starts an adapter at random weights, which change what the model says before anything is "
                "learned, so the policy would not start at its opponent. Set it to true."
            )
    bias = getattr(peft_config, "bias", "none")
    if bias != "none":
        yield (
            f"`bias: {bias}` trains biases of the base model in place, and without the adapter these would no longer be the "
            "opponent's. Set `bias: none`."
        )
    if isinstance(peft_config, LoraConfig) and _adapts_output(peft_config):
        yield (
            "`target_modules` adapts the output layer (`lm_head`), whose weights the log-probabilities are computed from "
            "directly, so that the adapter would have no effect. Leave it out (`ensure_weight_tying` too), or name it in "
            "`modules_to_save`."
        )


def without_copies(peft_config: Any) -> Iterator[str]:
    """A new adapter of which PEFT allows no frozen copy, as the opponent is from the second iteration on."""
    if isinstance(peft_config, AdaLoraConfig):
        yield (
            "`peft_config` is AdaLoraConfig: PEFT allows one such adapter a model, and from the second iteration on the "
            "opponent is a copy of it. Use LoRA."
        )


def second_adapter(model: Any, peft_config: Any) -> Iterator[str]:
    """A new adapter for a model that has one already.

    Args:
        model: in memory, or its name.
        peft_config: of the new adapter, or None.
    """
    if peft_config is not None and (isinstance(model, PeftModel) or (isinstance(model, str) and is_adapter(model))):
        yield (
            "`model` has an adapter already, and `peft_config` asks for another one. Leave `peft_config` out, and that "
            "adapter is trained further; or pass the model with its adapter merged (`model.merge_and_unload()`)."
        )


def output_layer_refusals(model: Any) -> list[str]:
    """Single tokens of the output layer that are trained: the model ties its embeddings, so they are those of both.

    Args:
        model: with its adapter.
    """
    if not isinstance(model, PeftModel) or not isinstance(model.get_output_embeddings(), TrainableTokensWrapper):
        return []
    return [
        "`trainable_token_indices` trains rows of the embeddings, which this model shares with its output layer, and the "
        "log-probabilities are computed from that layer's weights directly. Name the layer in `modules_to_save` instead."
    ]


def check_start(path: str | os.PathLike[str]) -> None:
    """Raise unless an adapter can be loaded again and again with the same result.

    With PiSSA and OLoRA, PEFT takes the first matrices out of the base model's weights whenever it loads an adapter, always
    the same ones. What the methods refused here take out differs from load to load, or needs what is not saved.

    Args:
        path: folder of the adapter.

    Raises:
        DataError: it was initialised by one of them.
    """
    initialisation = getattr(load_adapter_config(path), "init_lora_weights", True)
    if isinstance(initialisation, str) and initialisation.lower().startswith(("pissa_niter", "loftq", "corda")):
        raise DataError(
            f"The adapter {str(path)!r} has `init_lora_weights: {initialisation}`, with which PEFT changes the weights of "
            "the base model at every load, and not always to the same. Save it as plain LoRA (PEFT's `save_pretrained` with "
            "`path_initial_model_for_weight_conversion`), or merge it into its base model, and start from that."
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
    """How many tokens the embeddings have that an adapter has saved, by layer; only those that it has.

    Args:
        path: folder or Hub name of the adapter.
        layers: names of the input and output embeddings in the base model, by what to call them.

    Raises:
        OSError: the adapter has no weights in safetensors, or they are damaged.
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
    """Tokens of an embedding layer, from the shape of a weight that was saved for it."""
    _, found, rest = f".{key}".partition(f".{layer}.")
    if not found:
        return None
    if rest in ("weight", "base_layer.weight", "modules_to_save.weight", "original_module.weight"):
        return shape[0]
    return shape[1] if rest == "lora_embedding_A" and len(shape) == 2 else None
