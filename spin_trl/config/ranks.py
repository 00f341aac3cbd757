"""Refuse the variables of a launcher if they can't be true, before torch waits for processes that will never come."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import LaunchError

_RANKS = ("RANK", "LOCAL_RANK")


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


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
