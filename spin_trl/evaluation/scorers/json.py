"""Check that the generated response is JSON."""

from __future__ import annotations

from json import loads


def json(prompt: str, real: str, generated: str) -> float:
    """Return 1 if the whole response is valid JSON."""
    try:
        loads(generated)
    except (ValueError, RecursionError):  # thousands of brackets, which a collapsed model may write
        return 0.0
    return 1.0
