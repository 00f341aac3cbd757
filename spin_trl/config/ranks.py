"""Refuse the variables of a launcher if they can't be true, before torch waits for processes that will never come, or fails
on a device that does not exist."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ..counts import counted
from ..errors import LaunchError

_RANKS = ("RANK", "LOCAL_RANK")
_DEVICE = "ACCELERATE_TORCH_DEVICE"


def check_ranks(environment: Mapping[str, str] = os.environ) -> None:
    """Check that this process is one of those that `WORLD_SIZE` counts.

    Values that are not whole numbers are left to the libraries, which name them.

    Args:
        environment: environment variables.

    Raises:
        LaunchError: if `RANK` or `LOCAL_RANK` is not below `WORLD_SIZE`.
    """
    size = _whole(environment.get("WORLD_SIZE"))
    for name in _RANKS:
        rank = _whole(environment.get(name))
        if size is not None and rank is not None and rank >= size > 1:
            raise LaunchError(
                f"The environment variable {name} is {rank}, but WORLD_SIZE is {size}, so processes are numbered from 0 to "
                f"{size - 1}. Start with a launcher, which sets them (`accelerate launch`, `torchrun`), or unset both."
            )


def check_device(environment: Mapping[str, str] = os.environ) -> None:
    """Check that the device on which accelerate would place this process exists.

    A name that is no device is left to the libraries, which list the known ones.

    Args:
        environment: environment variables.

    Raises:
        LaunchError: if `ACCELERATE_TORCH_DEVICE` names a device that this machine does not have.
    """
    try:
        device = torch.device(environment.get(_DEVICE) or "cpu")
    except RuntimeError:
        return
    module: Any = getattr(torch, device.type, None)
    if device.type == "cpu" or not hasattr(module, "device_count"):  # such as XLA, whose devices torch doesn't count
        return
    found = int(module.device_count())
    if (device.index or 0) >= found:
        raise LaunchError(
            f"The environment variable {_DEVICE} is {str(device)!r}, but torch finds {counted(found, 'device')} of the kind "
            f"{device.type!r} on this machine. Unset it, or name a device that exists."
        )


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
