"""Gives vLLM a model that it can load: an adapter that it would refuse is merged into its base, in a temporary folder."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from peft import PeftModel

from ...errors import DataError, LaunchError
from ...files import remove
from ...generation.vllm.refusals import adapter_folder_refusals
from ...models.adapters import is_adapter, local_folder
from ...models.merging import merged_alike
from ...models.policy import load_policy
from ...run.run import Run, free_memory

logger = logging.getLogger(__name__)

_MERGED = ".merged-"
_TEXT = "The merged model has to answer as the adapter does."
"""Text whose tokens are used to compare the two."""


@contextlib.contextmanager
def loadable(run: Run, path: str, place: Path, dtype: str) -> Iterator[str]:
    """Give the path of a model, or of an adapter, that vLLM can load and that computes what the run's model does.

    It is the same path, unless vLLM would refuse the adapter there. Then the adapter is merged into its base model, on the
    CPU; the merged model is saved with the run's tokenizer, and removed when the context is left.

    Args:
        run: the run.
        path: folder or Hub name of the model, or of an adapter.
        place: folder for the temporary folder.
        dtype: number format in which the model will be served, and is saved, such as `bfloat16`.

    Raises:
        LaunchError: if the adapter can't be merged.
        DataError: if it can't be loaded.
    """
    refused = list(adapter_folder_refusals(local_folder(path))) if is_adapter(path) else []
    if not refused:
        yield path
        return
    folder = place / f"{_MERGED}{socket.gethostname()}-{os.getpid()}.tmp"
    _remove_old(place, folder)
    logger.info("The adapter %s is merged into its base model for vLLM. %s", path, " ".join(refused))
    try:
        _save_merged(run, path, folder, dtype, refused[0])
        free_memory()
        yield str(folder)
    finally:
        remove(folder)


def _save_merged(run: Run, path: str, folder: Path, dtype: str, reason: str) -> None:
    args = copy.copy(run.args)
    options = {name: value for name, value in args.model_kwargs.items() if name != "quantization_config"}
    args.model_init_kwargs = options
    policy, tokenizer = load_policy(path, args), run.tokenizer()
    assert isinstance(policy, PeftModel)
    try:
        model = merged_alike(policy, tokenizer(_TEXT)["input_ids"] or [0])
    except DataError as error:
        message = f"vLLM can't generate with the adapter {path}. {reason} {error} Use `engine: transformers`."
        raise LaunchError(message) from error
    known = getattr(torch, dtype, None)
    if isinstance(known, torch.dtype):
        torch.nn.Module.to(model, known)  # transformers' own has no types
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _remove_old(place: Path, own: Path) -> None:
    """Remove what a process of this machine that was killed has left, perhaps with the number of this process."""
    for folder in place.glob(f"{_MERGED}{socket.gethostname()}-*.tmp"):
        number = folder.name.removesuffix(".tmp").rpartition("-")[2]
        if folder == own or not (number.isdecimal() and psutil.pid_exists(int(number))):
            remove(folder)
