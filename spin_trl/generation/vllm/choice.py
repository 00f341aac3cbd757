"""What `engine: auto` chooses, and why: vLLM where it can generate for the run, transformers everywhere else."""

from __future__ import annotations

import functools
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...config.engines import AUTO, TRANSFORMERS, VLLM
from ...errors import DataError
from .process import vllm_version
from .to_serve import ToServe

SECONDS_TO_ANSWER = 120.0
"""Time limit for `vllm --version`, which imports torch first and takes up to half a minute on a slow disk."""


@dataclass(frozen=True)
class EngineChoice:
    """An engine, and why `engine: auto` has chosen it.

    Attributes:
        engine: value of the setting `engine`.
        reason: sentence.
    """

    engine: str
    reason: str

    def __str__(self) -> str:
        return f"`engine: {AUTO}` has chosen {self.engine}. {self.reason}"


@functools.cache
def answered_version(command: tuple[str, ...]) -> str | None:
    """Return the version of vLLM that a command reports, or None if it does not answer. Each process asks once.

    Args:
        command: command of vLLM (`vllm_command`).
    """
    if not command or shutil.which(command[0]) is None:
        return None
    return vllm_version(command, SECONDS_TO_ANSWER)


def choose_engine(
    to_serve: ToServe,
    command: Sequence[str],
    version_of: Callable[[tuple[str, ...]], str | None] = answered_version,
) -> EngineChoice:
    """Choose the engine of a run. vLLM is asked for its version only if nothing else is against it.

    Args:
        to_serve: what vLLM would serve.
        command: command of vLLM (`vllm_command`).
        version_of: function that returns the version that a command reports, or None.
    """
    if not to_serve.on_gpu:
        return EngineChoice(TRANSFORMERS, "The run computes on a CPU.")
    if to_serve.is_quantised:
        reason = "The weights are quantised, and vLLM would generate with an unquantised base model."
        return EngineChoice(TRANSFORMERS, reason)
    try:
        refused = next(to_serve.refusals(), None)
    except DataError as error:  # loading the adapter will report it, too
        refused = str(error)
    if refused is not None:
        return EngineChoice(TRANSFORMERS, refused)
    version = version_of(tuple(command))
    asked = shlex.join([*command, "--version"])
    if version is None:
        return EngineChoice(TRANSFORMERS, f"`{asked}` does not answer (`vllm_command`).")
    return EngineChoice(VLLM, f"`{asked}` answers {version}.")
