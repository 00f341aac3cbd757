"""What transformers, PEFT and safetensors raise when they load something, as messages that name what it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig

from ..errors import DataError
from .settings import LoadSettings


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
    except (OSError, ValueError, TypeError, AttributeError, KeyError, SafetensorError) as error:
        kind = "" if type(error) in (OSError, ValueError) else f"{type(error).__name__}: "
        raise DataError(f"{what} can't be {done}: {kind}{error}") from error


def model_config_of(path: str, args: LoadSettings) -> PreTrainedConfig | None:
    """The configuration of a model, or None; what is wrong with it is said when the model is loaded.

    Args:
        path: local folder or Hub name; a folder with an adapter has none.
        args: the revision in `model_init_kwargs` is used.
    """
    revision = args.model_kwargs.get("revision")
    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=args.trust_remote_code)
    except (OSError, ValueError, KeyError):
        return None
