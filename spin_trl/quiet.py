"""Silence loggers for a while."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(*names: str, level: int = logging.ERROR) -> Iterator[None]:
    """Silence loggers below a level within the context, and restore their levels on exit.

    Args:
        names: names of the loggers.
        level: the lowest level that is still logged.
    """
    with contextlib.ExitStack() as afterwards:
        for logger in map(logging.getLogger, names):
            afterwards.callback(logger.setLevel, logger.level)
            logger.setLevel(level)
        yield
