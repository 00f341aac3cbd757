"""Silence loggers below ERROR for a while."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Silence loggers below ERROR within the context, and restore their levels on exit.

    Args:
        names: names of the loggers.
    """
    with contextlib.ExitStack() as afterwards:
        for logger in map(logging.getLogger, names):
            afterwards.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield
