"""Loggers show only errors for a while, and get their own level back in any case."""

import contextlib
import logging

from spin_trl.quiet import quiet


def test_warnings_are_held_back_and_levels_come_back() -> None:
    """Each of several loggers gets its own level back."""
    first, second = logging.getLogger("quiet.first"), logging.getLogger("quiet.second")
    first.setLevel(logging.DEBUG)
    with quiet("quiet.first", "quiet.second"):
        assert not first.isEnabledFor(logging.WARNING)
        assert not second.isEnabledFor(logging.WARNING)
        assert second.isEnabledFor(logging.ERROR)
    assert (first.level, second.level) == (logging.DEBUG, logging.NOTSET)


def test_levels_come_back_after_a_failure_too() -> None:
    logger = logging.getLogger("quiet.third")
    with contextlib.suppress(ValueError), quiet("quiet.third"):
        raise ValueError
    assert logger.level == logging.NOTSET
