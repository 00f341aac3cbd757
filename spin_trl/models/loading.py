"""The settings needed to load a model or its files, and handling of errors from transformers, PEFT and safetensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..errors import DataError, SpinError, full_disk, message_of
from ..files import parse_json

_OF_THE_MACHINE = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
"""Errors that say nothing about the files being read."""


class LoadSettings(Protocol):
    """Settings for loading a model: any configuration with these attributes, such as [`SPINConfig`]."""

    trust_remote_code: bool
    """Whether code that comes with the model may run."""

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """Additional arguments of `from_pretrained`, such as `dtype` and `revision`."""


@contextlib.contextmanager
def loading(what: str, done: str = "loaded") -> Iterator[None]:
    """Turn any error in the block into one that says that `what` can't be `done`.

    Raises:
        DataError: if something went wrong. Errors of this package and of the machine are passed on unchanged.
    """
    try:
        yield
    except Exception as error:
        if not is_of_files(error):
            raise
        kind = "" if type(error) in (OSError, ValueError, Exception) else f"{type(error).__name__}: "
        raise DataError(f"{what} can't be {done}: {kind}{message_of(error)}") from error


def is_of_files(error: Exception) -> bool:
    """Return whether an error may come from a file that is missing, damaged or of another model.

    These libraries raise nearly any kind of exception for such files, since they compute with the content unchecked.
    """
    return not isinstance(error, (SpinError, *_OF_THE_MACHINE)) and full_disk(error) is None


def model_config_of(path: str, args: LoadSettings) -> PreTrainedConfig | None:
    """Return the configuration of a model, or None; what is wrong with it is reported when the model is loaded.

    Args:
        path: local folder or Hub name; a folder with an adapter has none.
        args: settings; the revision in `model_init_kwargs` is used.

    Raises:
        DataError: if the configuration has more layers than the folder has weights.
    """
    options = {"trust_remote_code": args.trust_remote_code, **args.model_kwargs}
    known = {name: options.get(name) for name in ("trust_remote_code", "revision")}
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, **known)
    except Exception as error:
        if not is_of_files(error):
            raise
        return None
    check_layers(path, config)
    return config


def check_layers(path: str, config: PreTrainedConfig) -> None:
    """Raise if a model's configuration has more layers than its folder has weights.

    Otherwise all these layers would be built, which takes milliseconds each, before the missing weights are found.

    Args:
        path: local folder or Hub name. Only folders are checked, and no architectures with code of their own.
        config: its configuration.

    Raises:
        DataError: if there are more layers than weights.
    """
    count = None if getattr(config, "auto_map", None) else _weights_in(Path(path))
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if count is not None and isinstance(layers, int) and layers > count:
        raise DataError(
            f"The files of the model {path!r} are inconsistent: config.json says {layers:,} layers (`num_hidden_layers`), "
            f"but the weights are {count:,} tensors. Download them again, all from one model."
        )


def _weights_in(folder: Path) -> int | None:
    """Return the number of weights in a folder's safetensors files, by their index or header; None if it is not known."""
    try:
        if (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
            return len(parse_json((folder / SAFE_WEIGHTS_INDEX_NAME).read_bytes())["weight_map"])
        with safe_open(folder / SAFE_WEIGHTS_NAME, "pt") as file:
            return len(file.keys())
    except Exception as error:
        if not is_of_files(error):
            raise
        return None
