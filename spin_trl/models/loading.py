"""What loading a model or its files asks of the settings, and what transformers, PEFT and safetensors raise meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from transformers import AutoConfig, PreTrainedConfig

from ..errors import DataError, SpinError, full_disk, message_of

_OF_THE_MACHINE = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
"""Errors that say nothing about the files that are read meanwhile."""


class LoadSettings(Protocol):
    """Settings that say how a model is loaded: every configuration that has them will do, as [`SPINConfig`] does."""

    trust_remote_code: bool
    """Whether code that lies beside the model may run."""

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """Further arguments of `from_pretrained`, such as `dtype` and `revision`."""


@contextlib.contextmanager
def loading(what: str, done: str = "loaded") -> Iterator[None]:
    """Say of whatever goes wrong that `what` can't be `done`.

    Raises:
        DataError: something went wrong. Errors of this package and of the machine pass as they are.
    """
    try:
        yield
    except Exception as error:
        if not is_of_files(error):
            raise
        kind = "" if type(error) in (OSError, ValueError, Exception) else f"{type(error).__name__}: "
        raise DataError(f"{what} can't be {done}: {kind}{message_of(error)}") from error


def is_of_files(error: Exception) -> bool:
    """Whether an error says that a file which is read is missing, damaged or another one's.

    These libraries raise nearly any kind of exception then: they take for granted what a file holds, and compute with it.
    """
    return not isinstance(error, (SpinError, *_OF_THE_MACHINE)) and full_disk(error) is None


def model_config_of(path: str, args: LoadSettings) -> PreTrainedConfig | None:
    """The configuration of a model, or None; what is wrong with it is said when the model is loaded.

    Args:
        path: local folder or Hub name; a folder with an adapter has none.
        args: the revision in `model_init_kwargs` is used.
    """
    options = {"trust_remote_code": args.trust_remote_code, **args.model_kwargs}
    known = {name: options.get(name) for name in ("trust_remote_code", "revision")}
    try:
        return AutoConfig.from_pretrained(path, **known)
    except Exception as error:
        if not is_of_files(error):
            raise
        return None
