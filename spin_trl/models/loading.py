"""What loading a model or its files asks of the settings, and what transformers, PEFT and safetensors raise meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig

from ..errors import DataError

RAISED = (OSError, ValueError, TypeError, AttributeError, KeyError, SafetensorError)
"""What these libraries raise where a file is missing, damaged or another one's."""


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
        DataError: something went wrong. Errors of this kind pass as they are.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        # tokenizers raises plain `Exception` where a file holds something else. Other errors are none of the file's.
        if not isinstance(error, RAISED) and type(error) is not Exception:
            raise
        kind = "" if type(error) in (OSError, ValueError, Exception) else f"{type(error).__name__}: "
        raise DataError(f"{what} can't be {done}: {kind}{error}") from error


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
    except RAISED:
        return None
