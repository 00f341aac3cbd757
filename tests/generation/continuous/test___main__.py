"""A worker is a process that ends with its run."""

from __future__ import annotations

import os
import sys

import pytest

from spin_trl.generation.continuous import __main__ as entry


def test_it_ends_with_the_process_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An orphan gets another parent. Its input alone does not tell: another process may hold it open."""
    parents = iter([10, 10, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(entry.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit):
        entry.end_with(10)
    assert next(parents, None) is None
